"""Runs programs under chosen locks, so that a test can take one away and see what it was that held."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from srpo_core.sandbox import Limits, Profile, SandboxError
from srpo_core.sandbox.isolation import try_level
from srpo_core.sandbox.profile import Level, Locks
from srpo_core.sandbox.supervisor import Outcome, Task, run_together
from srpo_core.sandbox.zygote import Zygote

PROGRAM = "srpo_core.sandbox.inside.program"
ALL = Locks()
SPACES = ALL.namespaces
BRIEF = Limits(wall_seconds=60.0, cpu_seconds=5.0)


def without(*names: str) -> Locks:
    """All locks but these: fields of Locks, or namespaces."""
    locks = replace(ALL, namespaces=SPACES - set(names))
    return replace(locks, **{name: False for name in names if name not in SPACES})


NO_ROOT = without("root", "landlock")
OPEN = without("root", "landlock", "seccomp", "rlimits", *SPACES)


@dataclass(frozen=True)
class Bait:
    """What the host has that programs should not reach; anybody may use it."""

    place: Path
    port: int
    pid: int

    def put_into(self, program: str) -> str:
        """The program with `PLACE`, `PORT` and `PID` defined."""
        return f"PLACE, PORT, PID = {str(self.place)!r}, {self.port}, {self.pid}\n{program}"


class Runner:
    """Zygotes by their locks, started when they are wanted."""

    def __init__(self) -> None:
        self._zygotes: dict[Profile, Zygote] = {}

    def run(self, program: str, locks: Locks = ALL, *, level: Level = "A", limits: Limits = BRIEF) -> Outcome:
        profile = Profile(level, locks)
        zygote = self._zygotes.get(profile)
        if zygote is None or not zygote.clean:
            if zygote is not None:
                zygote.close()
            zygote = self._zygotes[profile] = Zygote(profile, [PROGRAM])
        try:
            return run_together([Task(zygote, PROGRAM, {"code": program}, limits)])[0]
        except SandboxError:
            self._zygotes.pop(profile).close()
            raise

    def close(self) -> None:
        for zygote in self._zygotes.values():
            zygote.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name, contextlib.ExitStack() as stack:
        place = Path(name)
        place.chmod(0o777)
        (place / "canary").write_text("canary")
        (place / "canary").chmod(0o644)
        (place / "private").write_text("private")
        (place / "private").chmod(0o600)
        listeners = []
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_UNIX, f"{name}/socket"),
            (socket.AF_UNIX, f"\0{name}"),
        ):
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.bind(address)
            listener.listen(64)
            listeners.append(listener)
        (place / "socket").chmod(0o777)
        yield Bait(place, listeners[0].getsockname()[1], os.getpid())


def level_a_is_closed() -> str | None:
    """Why this machine does not offer level A; None when it does."""
    reason, _ = try_level(Profile("A"))
    return reason


NEEDS_LEVEL_A = pytest.mark.skipif(
    level_a_is_closed() is not None,
    reason="needs sandbox level A",
)
