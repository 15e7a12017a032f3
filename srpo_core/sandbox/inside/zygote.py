"""A warm interpreter that forks one process per job, locks it, waits for it, and tells how it ended.

It reads one small message at a time from the supervisor (who is trusted) and never what a job says. It ends when the
supervisor is gone, and everything in its process namespace with it.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any

from srpo_core.sandbox.inside import landlock, locks, seccomp

JOB, STARTED, RULES = 3, 62, 63
"""Descriptors of a child: the job, below them the standard streams; who wants to know that it is locked; Landlock's."""

_TICK_MS = 100
_MOST_FILES = 1000


def main() -> None:
    """`sys.argv[3:]`: the control socket's descriptor, and the plan as JSON."""
    control = socket.socket(fileno=int(sys.argv[3]))
    plan: dict[str, Any] = json.loads(sys.argv[4])
    for name in plan["preload"]:
        with contextlib.suppress(ImportError):  # a module of another Python version or platform
            importlib.import_module(name)
    for name in plan["entries"]:
        importlib.import_module(name)
    if plan["uid"] is not None:
        locks.drop_to(plan["uid"])
    if plan["die_with_parent"]:
        locks.die_with_parent()
    rules = None
    if plan["landlock"]:
        rules = os.dup2(landlock.ruleset(plan["readable"], plan["writable"]), RULES)
    compiled = seccomp.compile_filter(frozenset(plan["deny"])) if plan["seccomp"] else None
    lock = locks.Plan(plan["rlimits"], rules, compiled, plan["count_processes"])
    sys.set_int_max_str_digits(0)
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    _serve(control, lock, plan["work"])


def _serve(control: socket.socket, lock: locks.Plan, work: str | None) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 16)
        if not message:
            return
        if message == b"kill":  # it came when the job had ended already
            continue
        order = json.loads(message)
        locked, started = os.pipe()
        pid = os.fork()
        if pid == 0:
            _child(order, descriptors, lock, started)
        for descriptor in (*descriptors, started):
            os.close(descriptor)
        ended = _wait(control, pid, work)
        ended["started"] = os.read(locked, 400).decode()
        os.close(locked)
        ended["clean"] = not (work and os.listdir(work))
        control.send(json.dumps(ended).encode())


def _wait(control: socket.socket, pid: int, work: str | None) -> dict[str, Any]:
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(handle, select.POLLIN)
    files = False
    while True:
        ready = {descriptor for descriptor, _ in poll.poll(_TICK_MS)}
        if handle in ready:
            break
        files = files or _too_many_files(work)
        told = control.recv(16) if control.fileno() in ready else None
        if told == b"":
            _kill(pid)
            os._exit(0)
        if told or files:
            _kill(pid)
    os.close(handle)
    _, status, used = os.wait4(pid, 0)
    if os.getpid() == 1:  # whatever the job left behind: as the first of its namespace, it reaches all and only these
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
    return {"status": status, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024, "files": files}


def _too_many_files(work: str | None) -> bool:
    """Empty files take no space of the tmpfs, but memory of the kernel."""
    if work is None:
        return False
    state = os.statvfs(work)
    return state.f_files - state.f_ffree > _MOST_FILES


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1 if os.getpid() == 1 else pid, signal.SIGKILL)


def _child(order: dict[str, Any], descriptors: list[int], lock: locks.Plan, started: int) -> None:
    try:
        _arrange(descriptors, started)
        try:
            locks.apply(lock, order["limits"])
            with open(JOB, "rb") as file:
                job = json.load(file)
            sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
            sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        except BaseException as error:
            os.write(STARTED, f"{type(error).__name__}: {error}".encode()[:400])
            raise
        os.write(STARTED, b"+")
        os.close(STARTED)
        importlib.import_module(order["entry"]).main(job)
        sys.stdout.flush()
    finally:
        os._exit(0)


def _arrange(descriptors: list[int], started: int) -> None:
    """The descriptors become 0, 1, 2, JOB and so on; nothing else of the zygote's stays open."""
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, RULES + 1) for descriptor in (*descriptors, started)]
    for place, descriptor in enumerate(kept[:-1]):
        os.dup2(descriptor, place)
    os.dup2(kept[-1], STARTED)
    os.closerange(len(descriptors), STARTED)
    os.closerange(RULES + 1, 1 << 16)
