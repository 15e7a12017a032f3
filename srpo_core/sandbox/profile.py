"""How a sandboxed interpreter is started at each level: which locks, which files, which command."""

import functools
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from srpo_core.sandbox.inside import landlock
from srpo_core.sandbox.inside.seccomp import PATH_CALLS

Level = Literal["A", "B", "none"]

WORK = "/scratch"
WORK_BYTES = 16 * 2**20
_INSIDE = "srpo_core.sandbox.inside."
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_SETTINGS = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}  # the same order of a set in every run; one heap

_COMMON = """
    abc array bisect cmath collections collections.abc contextlib copy dataclasses datetime decimal enum fractions
    functools heapq io itertools json math numbers operator os random re statistics string struct sys textwrap time
    types typing
"""
_LESS_COMMON = """
    argparse ast atexit base64 calendar csv ctypes difflib gc hashlib inspect keyword locale pathlib pickle platform
    pprint queue secrets select shutil signal threading timeit traceback unicodedata uuid warnings zlib
"""


@dataclass(frozen=True)
class Locks:
    """What holds a job. Everything is on; the tests switch one off to see what it was that stopped an attack."""

    user: bool = True
    namespaces: frozenset[str] = frozenset({"pid", "net", "ipc", "uts", "cgroup"})
    root: bool = True
    """Level A: a file tree of its own, read-only, with nothing of the host's but the interpreter."""
    environment: bool = True
    rlimits: bool = True
    landlock: bool = True
    seccomp: bool = True


@dataclass(frozen=True)
class Profile:
    """A level with its locks."""

    level: Level
    locks: Locks = Locks()


def launch_command(profile: Profile, entries: Sequence[str], control: int, sources: int) -> list[str]:
    """The command that starts a zygote; `control` and `sources` are descriptors that it inherits."""
    boot = [*_flags(), "-c", _boot_text(), str(sources)]
    plan = {**_zygote_plan(profile), "entries": list(entries)}
    command = [*boot, f"{_INSIDE}zygote", str(control), json.dumps(plan)]
    if profile.level != "A":
        return [interpreter(), *command]
    launch = {
        "uid": unused_uid() if profile.locks.user and os.geteuid() == 0 else None,
        "readable": list(readable_files()),
        "exposed": [] if profile.locks.root else list(_exposed(profile.locks)),
        "arguments": _first_arguments(profile.locks),
        "last_arguments": _last_arguments(profile.locks),
        "bwrap": bubblewrap(),
        "command": [interpreter(), *command],
    }
    return [interpreter(), *boot, f"{_INSIDE}launch", json.dumps(launch)]


def environment(profile: Profile) -> dict[str, str]:
    """The zygote's environment, or at level A that of what starts it; nothing of the caller's."""
    if not profile.locks.environment:
        return dict(os.environ)
    return {} if profile.level == "A" else dict(_SETTINGS)


def texts(modules: Sequence[str]) -> dict[str, str]:
    """The source text of each module, for an interpreter that cannot reach its file."""
    inside = [f"{_INSIDE}{path.stem}" for path in sorted((Path(__file__).parent / "inside").glob("[!_]*.py"))]
    return {name: _text(name) for name in dict.fromkeys([*inside, *modules])}


def bubblewrap() -> str | None:
    """Where bubblewrap is, if it is installed."""
    return shutil.which("bwrap")


@functools.cache
def interpreter() -> str:
    """The interpreter without its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@functools.cache
def readable_files() -> tuple[str, ...]:
    """What the interpreter needs: itself, its standard library, shared libraries. Nothing below another of them."""
    library = Path(sysconfig.get_path("stdlib"))
    platform_library = sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix})
    near = [str(path) for path in library.parent.glob("libpython*.so*")]
    wanted = [interpreter(), str(library), platform_library, *near, *_LIBRARIES]
    there = sorted({path for path in wanted if os.path.exists(path)})
    return tuple(path for path in there if not any(path.startswith(other + "/") for other in there))


def unused_uid() -> int:
    """A user id that nobody has, among those that this user namespace knows. Random: two zygotes share no limits."""
    lines = [[int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
    first, _, count = max(lines, key=lambda line: line[2])
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    while True:  # ids near 2**32 mean "none" to some calls
        uid = first + count // 4 + secrets.randbelow(max(1, count // 4))
        if uid not in taken:
            return uid


def _zygote_plan(profile: Profile) -> dict[str, Any]:
    locks, level = profile.locks, profile.level
    dropped = locks.user and os.geteuid() == 0
    own_root = level == "A" and locks.root
    guarded = locks.landlock and level != "none" and landlock.abi() > 0
    return {
        # What is loaded makes each fork dearer. At level A the rest is imported when it is wanted; at level B its files
        # may be out of reach.
        "preload": [*_COMMON.split(), *([] if level == "A" else _LESS_COMMON.split())],
        "uid": unused_uid() if dropped and level == "B" else None,
        "die_with_parent": level != "A",  # bubblewrap sees to it
        "landlock": guarded,
        "readable": ["/"] if own_root else [*readable_files(), *_DEVICES],
        "writable": [WORK, os.devnull] if own_root else [os.devnull],
        "seccomp": locks.seccomp and level != "none",
        "deny": [] if level == "A" or guarded else sorted(PATH_CALLS),
        "rlimits": locks.rlimits,
        "count_processes": level == "A" or dropped,
        "work": WORK if own_root else None,
    }


def _first_arguments(locks: Locks) -> list[str]:
    spaces = [f"--unshare-{name}" for name in sorted(locks.namespaces)]
    first_of_all = ["--as-pid-1"] if "pid" in locks.namespaces else []
    settings = [word for name, value in _SETTINGS.items() for word in ("--setenv", name, value)]
    nested = ["--disable-userns"] if locks.root else []
    name = ["--hostname", "sandbox"] if "uts" in locks.namespaces else []
    return [
        *("--unshare-user", *nested, *spaces, *first_of_all, *name, "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"),
        *settings,
    ]


def _exposed(locks: Locks) -> tuple[str, ...]:
    """What of the host a test may put into the tree."""
    return ("/dev", "/dev/shm", "/etc", "/tmp") + (() if "pid" in locks.namespaces else ("/proc",))


def _last_arguments(locks: Locks) -> list[str]:
    if not locks.root:
        return ["--proc", "/proc"] if "pid" in locks.namespaces else []
    hidden = [sysconfig.get_path("stdlib") + "/site-packages", "/usr/lib/python3"]
    covers = [word for path in hidden if os.path.isdir(path) for word in ("--tmpfs", path, "--remount-ro", path)]
    # Not --dev: it brings a writable /dev/shm, and terminals.
    devices = [word for path in _DEVICES for word in ("--dev-bind", path, path)]
    work = ["--perms", "0700", "--size", str(WORK_BYTES), "--tmpfs", WORK, "--chdir", WORK]
    return [*covers, *devices, *work, "--remount-ro", "/"]


def _flags() -> list[str]:
    """Like -I, but for PYTHONHASHSEED, which an empty environment cannot be made to hold otherwise."""
    return ["-s", "-S", "-P", "-B", "-X", "utf8"]


@functools.cache
def _boot_text() -> str:
    return (Path(__file__).parent / "inside" / "boot.py").read_text()


@functools.cache
def _text(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the sandbox needs the source of {module}, which cannot be found")
    return Path(spec.origin).read_text()
