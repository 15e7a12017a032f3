"""From a caller that may be root to bubblewrap as an unused user. Runs outside of the sandbox, and is replaced by it.

As root it first makes the interpreter's files reachable for that user (they may lie below a directory that only root
may enter), by mounts in a private namespace.
"""

import contextlib
import ctypes
import json
import os
import stat
import sys
from typing import Any

from srpo_core.sandbox.inside import locks
from srpo_core.sandbox.inside.libc import LIBC

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_STAGE = "/tmp"


def main() -> None:
    """`sys.argv[3]`: what to start, as JSON. Does not return."""
    plan: dict[str, Any] = json.loads(sys.argv[3])
    offer_to_the_oom_killer()
    wanted = [*plan["exposed"], *plan["readable"]]
    reachable = {path: path for path in wanted}
    if plan["uid"] is not None:
        reachable = _staged(wanted) or reachable
        locks.drop_to(plan["uid"])
    arguments = list(plan["arguments"])
    for path, source in reachable.items():
        arguments += ["--dev-bind" if path in plan["exposed"] else "--ro-bind", source, path]
    arguments += plan["last_arguments"]
    descriptor = os.memfd_create("arguments", 0)
    os.write(descriptor, b"".join(argument.encode() + b"\0" for argument in arguments))
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.execve(plan["bwrap"], ["bwrap", "--args", str(descriptor), *plan["command"]], dict(os.environ))


def offer_to_the_oom_killer() -> None:
    """When memory runs out, a job goes before the program that started it."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _staged(paths: list[str]) -> dict[str, str]:
    """Where each path can be reached by everybody; empty when this root may not mount."""
    if LIBC.unshare(_CLONE_NEWNS):
        return {}
    opened = {path: os.open(path, os.O_PATH) for path in paths}
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _STAGE, "tmpfs", 0)
    os.chmod(_STAGE, 0o755)
    staged = {}
    for number, (path, descriptor) in enumerate(opened.items()):
        place = f"{_STAGE}/{number}"
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{descriptor}", place, None, _MS_BIND)
        os.close(descriptor)
        staged[path] = place
    return staged


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    if LIBC.mount(*encoded, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), f"mount of {source} on {target}: {os.strerror(ctypes.get_errno())}")
