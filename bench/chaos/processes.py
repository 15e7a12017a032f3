"""Processes below this one: found, killed, and those that outlived the one that started them."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.002
_SIGNAL_OF_PARENT, _SUBREAPER = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER in linux/prctl.h


def adopt_orphans() -> None:
    """From here on a process below this one whose parent dies becomes a child of this one: none can be overlooked.

    When this one's own parent dies, it is interrupted, to end them all.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is not there where a shell began it in background
    for what, value in ((_SUBREAPER, 1), (_SIGNAL_OF_PARENT, signal.SIGINT)):
        if ctypes.CDLL(None, use_errno=True).prctl(what, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def living(root: int | None = None) -> dict[int, list[str]]:
    """The living processes below `root` (this one) with their command lines, parents before children."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(directory.name))
    found: dict[int, list[str]] = {}
    left = list(children.get(root or os.getpid(), []))
    while left:
        process = left.pop(0)
        with suppress(OSError):
            found[process] = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        left += children.get(process, [])
    return found


def ended(child: int) -> bool:
    """Whether a child has ended; its status stays to be asked for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def reap(others: Collection[int]) -> None:
    """Take note of every child that has ended, adopted ones too, but for `others`, whom somebody else waits for."""
    with suppress(ChildProcessError):
        while (next_ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if next_ended.si_pid in others:
                return
            os.waitpid(next_ended.si_pid, 0)


def kill(*processes: int) -> None:
    """SIGKILL, to those that are still there."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_until(ready: Callable[[], object], seconds: float) -> bool:
    """Whether it became ready in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
