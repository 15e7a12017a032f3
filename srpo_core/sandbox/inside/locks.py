"""What a process does to itself before it runs untrusted code: resource limits, Landlock, seccomp, in this order."""

import math
import os
import resource
from dataclasses import dataclass

from srpo_core.sandbox.inside import landlock, seccomp
from srpo_core.sandbox.inside.libc import prctl

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SIGKILL = 9
_STACK = 120 * 2**20  # what the kernel leaves below the mappings for a main thread that recurses deep in C
_DESCRIPTORS = 64


@dataclass(frozen=True)
class Plan:
    """Which locks a zygote's children put on; built once."""

    rlimits: bool
    landlock_rules: int | None
    seccomp_filter: seccomp.Filter | None
    count_processes: bool


def apply(plan: Plan, limits: dict[str, float]) -> None:
    """Locks the calling process for good. Raises OSError or ValueError when a lock cannot be put on."""
    prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    prctl(_PR_SET_DUMPABLE, 0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if plan.rlimits:
        _limit(limits, plan.count_processes)
    if plan.landlock_rules is not None:
        landlock.restrict(plan.landlock_rules)
        os.close(plan.landlock_rules)
    if plan.seccomp_filter is not None:
        seccomp.install(plan.seccomp_filter, os.getpid())


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends."""
    prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def drop_to(uid: int) -> None:
    """From root to an unused user, with no groups and no way back."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _limit(limits: dict[str, float], count_processes: bool) -> None:
    memory, output = int(limits["memory_bytes"]), int(limits["output_bytes"])
    seconds = math.ceil(limits["cpu_seconds"])
    exact = {
        resource.RLIMIT_FSIZE: output,
        resource.RLIMIT_NOFILE: _DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if count_processes:
        exact[resource.RLIMIT_NPROC] = int(limits["processes"]) + 1  # and the zygote
    for which, value in exact.items():
        resource.setrlimit(which, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU, a second later SIGKILL
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK if hard < 0 else min(_STACK, hard), hard))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
