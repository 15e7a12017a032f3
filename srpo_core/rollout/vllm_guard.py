"""Runs a command in a process group of its own, which ends with the command, and with whoever started this.

    python vllm_guard.py PARENT COMMAND...

PARENT is the process that started this. Its end is seen however it comes, SIGKILL included: by the closing of our
standard input, and by who our parent is, since a fork of the parent keeps that pipe open. A signal to the group reaches
what the command started as well, such as vLLM's engine process, which outlives its own parent otherwise.

The kernel's PR_SET_PDEATHSIG alone would not do: it fires when the *thread* ends that started the child, and a run's
stages are threads. Here the only thread starts the command. Imports the standard library alone.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

LOOK_SECONDS = 1.0
GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> int:
    """Run the command until it ends or the parent does; gives its exit status, as the shell would tell it."""
    end_reader, end_writer = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(end_writer, b"."))
    # `preexec_fn` is unsafe beside other threads; there are none here.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with_parent)  # noqa: PLW1509
    ended = os.pidfd_open(child.pid)
    while True:
        ready, _, _ = select.select([sys.stdin.fileno(), end_reader, ended], [], [], LOOK_SECONDS)
        if ready or os.getppid() != parent:
            break
    _signal_group(child.pid, signal.SIGTERM)
    select.select([ended], [], [], GRACE_SECONDS)
    _signal_group(
        child.pid, signal.SIGKILL
    )  # before its leader is waited for: until then the group's number is its own
    status = child.wait()
    return status if status >= 0 else 128 - status


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
