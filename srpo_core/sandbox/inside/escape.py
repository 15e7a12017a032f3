"""Tries to get out, in earnest: what succeeds closes the level."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from srpo_core.sandbox.inside.libc import LIBC

_IPC_PRIVATE, _IPC_RMID, _IPC_CREAT = 0, 0, 0o1000
_PTRACE_SEIZE, _CLONE_NEWUSER = 0x4206, 0x10000000
_OWN_SETTINGS = {"PYTHONHASHSEED", "MALLOC_ARENA_MAX", "PWD", "LC_CTYPE"}


def main(job: dict[str, Any]) -> None:
    """Entry of a sandboxed process: `job` names `canary`, `unix`, `port` and `pid`; prints a list of successes."""
    pid: int = job["pid"]
    attempts: dict[str, Callable[[], object]] = {
        "read a file of the host": lambda: _read(job["canary"]),
        "read /etc/passwd": lambda: _read("/etc/passwd"),
        "list the host's files": lambda: os.listdir(os.path.dirname(job["canary"])),
        "write a file of the host": lambda: _write(os.path.dirname(job["canary"]) + "/new"),
        "write to /tmp": lambda: _write("/tmp/sandbox-probe"),
        "write to /dev/shm": lambda: _write("/dev/shm/sandbox-probe"),
        "write into the standard library": lambda: _write(os.path.dirname(os.__file__) + "/sandbox_probe"),
        "connect to the host's network": lambda: _connect(socket.AF_INET, ("127.0.0.1", job["port"])),
        "connect to a Unix socket": lambda: _connect(socket.AF_UNIX, job["unix"]),
        "open a socket": lambda: socket.socket().close(),
        "signal its parent": lambda: os.kill(os.getppid(), 0),
        "signal the host's process": lambda: os.kill(pid, 0),
        "signal everybody": lambda: os.kill(-1, 0),
        "see other processes": lambda: os.listdir(f"/proc/{pid}"),
        "read the first process's environment": lambda: _read("/proc/1/environ"),
        "read the host process's environment": lambda: _read(f"/proc/{pid}/environ"),
        "read its parent's memory": lambda: _read(f"/proc/{os.getppid()}/mem", 0),
        "trace its parent": lambda: _call("ptrace", _PTRACE_SEIZE, os.getppid(), 0, 0),
        "read its parent's memory by a call": lambda: _call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
        "use System V shared memory": lambda: _share("shm", 4096),
        "use System V semaphores": lambda: _share("sem", 1),
        "use System V queues": lambda: _share("msg"),
        "make a user namespace": lambda: _call("unshare", _CLONE_NEWUSER),
        "fork": _fork,
        "be root": _be_root,
        "see the caller's environment": lambda: _some(set(os.environ) - _OWN_SETTINGS),
        "keep a descriptor of the caller's": lambda: _some(_descriptors()),
    }
    print(json.dumps([name for name, attempt in attempts.items() if _succeeds(attempt)]))
    sys.stdout.flush()


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, LookupError):
        return False
    return True


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        connection.connect(address)


def _call(name: str, *arguments: int) -> int:
    result = int(getattr(LIBC, name)(*(ctypes.c_long(argument) for argument in arguments)))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def _share(kind: str, *size: int) -> None:
    """Makes a System V object, and removes it again: where this succeeds it would last."""
    made = _call(f"{kind}get", _IPC_PRIVATE, *size, _IPC_CREAT | 0o600)
    remove = (made, 0, _IPC_RMID, 0) if kind == "sem" else (made, _IPC_RMID, 0)
    _call(f"{kind}ctl", *remove)


def _read(path: str, size: int = 1) -> None:
    with open(path, "rb") as file:
        file.read(size)


def _write(path: str) -> None:
    with open(path, "w"):
        os.unlink(path)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _be_root() -> None:
    if os.geteuid() != 0:
        raise PermissionError("not root")


def _descriptors() -> list[int]:
    """Open descriptors beyond the five of a job."""
    there = []
    for descriptor in range(5, 64):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            there.append(descriptor)
    return there


def _some(found: object) -> None:
    if not found:
        raise LookupError("none")
