"""Which isolation this machine offers: found by trying to break out of it."""

import contextlib
import functools
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from srpo_core.sandbox.errors import SandboxError, SandboxUnavailable
from srpo_core.sandbox.limits import Limits
from srpo_core.sandbox.profile import Locks, Profile, bubblewrap

_ESCAPE = "srpo_core.sandbox.inside.escape"
_LIMITS = Limits(wall_seconds=30.0, cpu_seconds=20.0)
_INSTALL = (
    "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap) and allow user namespaces, or use a kernel with "
    "seccomp; `unsafe_no_isolation` runs programs with the rights of this process instead, which is only for "
    "programs that you trust"
)


@dataclass(frozen=True)
class Isolation:
    """What holds a program here. Plain data, to be recorded with a run.

    Level A: bubblewrap, and the locks of B inside. B: Landlock, seccomp and limits, without namespaces. C: neither,
    programs are refused. none: the caller asked for no isolation. `findings` are what got out of a closed level.
    """

    level: Literal["A", "B", "C", "none"]
    reason: str
    landlock_abi: int
    kernel: str
    findings: tuple[str, ...] = ()


def isolate(*, unsafe_no_isolation: bool = False) -> tuple[Isolation, Profile]:
    """The isolation that programs get, and how to start it.

    Raises SandboxUnavailable when there is none; with `unsafe_no_isolation` it warns and goes on without.
    """
    if unsafe_no_isolation:
        found = _isolation("none", "unsafe_no_isolation was asked for")
        warnings.warn(
            "unsafe_no_isolation: programs written by a model run WITHOUT ISOLATION, with all rights of this process",
            stacklevel=3,
        )
        return found, Profile("none", Locks(user=False))
    found = probe()
    if found.level == "A":
        return found, Profile("A")
    if found.level == "B":
        return found, Profile("B")
    raise SandboxUnavailable(f"code cannot be run in isolation here: {found.reason}. To mend it, {_INSTALL}")


_PROBING = threading.Lock()


def probe() -> Isolation:
    """The best level that nothing got out of. Tried once per process, in under two seconds."""
    with _PROBING:
        return _probe()


@functools.cache
def _probe() -> Isolation:
    if not sys.platform.startswith("linux"):
        return Isolation("C", f"the sandbox needs Linux, this is {sys.platform}", 0, platform.release())
    reasons: list[str] = []
    findings: list[str] = []
    for level in ("A", "B"):
        reason, got_out = try_level(Profile(level))
        if reason is None:
            why = "; ".join(reasons) or "nothing got out"
            return _isolation(level, why, tuple(findings))
        reasons.append(f"level {level}: {reason}")
        findings += [f"level {level}: {finding}" for finding in got_out]
    return _isolation("C", "; ".join(reasons), tuple(findings))


def try_level(profile: Profile) -> tuple[str | None, list[str]]:
    """Why a level is closed (None: it is open), and what got out of it."""
    from srpo_core.sandbox.supervisor import Task, run_together
    from srpo_core.sandbox.zygote import Zygote

    if profile.level == "A" and bubblewrap() is None:
        return "bubblewrap (bwrap) is not installed", []
    try:
        with _bait() as bait:
            zygote = Zygote(profile, (_ESCAPE,))
            try:
                outcome = run_together([Task(zygote, _ESCAPE, bait, _LIMITS)])[0]
            finally:
                zygote.close()
    except (SandboxError, OSError, RuntimeError) as error:
        return str(error), []
    try:
        findings = [str(finding) for finding in json.loads(outcome.output)]
    except ValueError:
        return f"the probe did not answer ({outcome.cause} {outcome.code})", []
    return (f"a program could {', '.join(findings)}" if findings else None), findings


@contextlib.contextmanager
def _bait() -> Iterator[dict[str, Any]]:
    """What a program inside must not reach: files that all may use, listening sockets, this process."""
    place = Path(tempfile.mkdtemp(prefix="sandbox-probe-"))
    listeners = []
    try:
        place.chmod(0o777)
        canary = place / "canary"
        canary.write_text("canary")
        canary.chmod(0o644)
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, str(place / "socket"))):
            with contextlib.suppress(OSError):  # a machine without a loopback
                listener = socket.socket(family, socket.SOCK_STREAM)
                listeners.append(listener)
                listener.bind(address)
                listener.listen()
        os.chmod(place / "socket", 0o777)
        port = listeners[0].getsockname()[1]
        yield {"canary": str(canary), "unix": str(place / "socket"), "port": port, "pid": os.getpid()}
    finally:
        for listener in listeners:
            listener.close()
        shutil.rmtree(place, ignore_errors=True)


def _isolation(level: Literal["A", "B", "C", "none"], reason: str, findings: tuple[str, ...] = ()) -> Isolation:
    from srpo_core.sandbox.inside import landlock

    return Isolation(level, reason, landlock.abi(), platform.release(), findings)
