"""Runs a command in our own process group, which ends with the command, and with whoever started this.

    python vllm_guard.py PARENT COMMAND...

PARENT is the process that started this, as the leader of a group. Its end is seen however it comes, SIGKILL included:
by the closing of our standard input, and by who our parent is, since a fork of the parent keeps that pipe open. A
signal to the group reaches what the command started as well, such as vLLM's engine process, which outlives its own
parent otherwise. We are of the group too, so that the parent knows its number and can end it should we be killed.

The kernel's PR_SET_PDEATHSIG alone would not do: it fires when the *thread* ends that started the child, and a run's
stages are threads. Here the only thread starts the command. Imports the standard library alone.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from typing import NoReturn

KILLED = "vllm_guard: the server was killed by signal "
LOOK_SECONDS = 1.0
GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> NoReturn:
    """Run the command until it ends or the parent does; then SIGKILL takes the group, and this process with it.

    A command that a signal ended is told on our output, as `KILLED` and the signal's number.
    """
    if os.getpgrp() != os.getpid():
        sys.exit("vllm_guard.py ends its process group: start it as the leader of one")
    end_reader, end_writer = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(end_writer, b"."))
    # `preexec_fn` is unsafe beside other threads; there are none here.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)  # noqa: PLW1509
    ended = os.pidfd_open(child.pid)
    while True:
        ready, _, _ = select.select([sys.stdin.fileno(), end_reader, ended], [], [], LOOK_SECONDS)
        if ready or os.getppid() != parent:
            break
    if (status := child.poll()) is not None and status < 0:
        with contextlib.suppress(OSError):  # of a full disk; the group must be ended all the same
            print(f"{KILLED}{-status}", flush=True)
    os.killpg(0, signal.SIGTERM)
    select.select([ended], [], [], GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("SIGKILL is not survived")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
