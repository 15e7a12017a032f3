"""Programs judged a second, beside what a caller would pay without warm sandboxes."""

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.figures import Figure, timed_in_turn
from srpo_core.rewards.code import CodeTests, CodeVerifier
from srpo_core.sandbox import Limits, Profile
from srpo_core.sandbox.profile import bubblewrap, interpreter
from srpo_core.sandbox.supervisor import Task, run_together
from srpo_core.sandbox.zygote import Zygote

CALLS = [
    (f"def f_{n}(xs):\n    return sorted(x * {n} for x in xs if x % 2)\n", f"assert f_{n}([3, 2, 1]) == [{n}, {3 * n}]")
    for n in range(1, 41)
]
IMPORTS = "import collections, heapq, itertools, json, math, random, re, string\n"
PROGRAM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"


def code_figures(quick: bool) -> list[Figure]:
    """Jobs per second and processor time a job, warm and cold, with all cores of this process. Needs level A."""
    workers = len(os.sched_getaffinity(0))
    repetitions = 3 if quick else 15
    calls = [(code, CodeTests(asserts=(test,))) for code, test in CALLS]
    scripts = [(f"{code}{test}\n", "") for code, test in CALLS]
    importing = [(f"{IMPORTS}{code}", tests) for code, tests in calls]
    programs = [(PROGRAM, CodeTests(inputs=(f"{n} 1",), outputs=(str(n + 1),))) for n in range(len(CALLS))]
    with CodeVerifier(workers=workers) as verifier, ThreadPoolExecutor(workers) as threads:
        if verifier.isolation.level != "A":
            raise SystemExit(f"the reference is bubblewrap, which is not to be had here: {verifier.isolation.reason}")

        def warm(jobs: list[tuple[str, CodeTests]]) -> Callable[[], object]:
            def judge() -> None:
                judged = verifier.judge(jobs)
                assert all(judgement.verdict == "passed" for judgement in judged), judged

            return judge

        def cold(jobs: list[tuple[str, str]]) -> Callable[[], object]:
            return lambda: list(threads.map(_cold, jobs))

        ways = [
            ("calls checked by asserts", warm(calls), cold(scripts)),
            ("the same, with usual imports", warm(importing), cold([(IMPORTS + code, "") for code, _ in scripts])),
            ("programs, input to output", warm(programs), cold([(PROGRAM, f"{n} 1") for n in range(len(CALLS))])),
        ]
        figures = []
        for name, ours, theirs in ways:
            ours_seconds, cold_seconds = timed_in_turn(repetitions, ours, theirs)
            speed, reference = len(CALLS) / ours_seconds, len(CALLS) / cold_seconds
            figures.append(Figure(name, speed, "jobs/s", reference, ">= 2x", speed >= 2 * reference))
        figures += [_processor_time(), _start_seconds()]
    return figures


def _cold(job: tuple[str, str]) -> None:
    """What a caller does without a zygote: an interpreter for each job, in a sandbox with fewer locks than ours."""
    script, given = job
    command = [
        *(str(bubblewrap()), "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--tmpfs", "/tmp"),
        *(interpreter(), "-I", "-S", "-c", script),
    ]
    subprocess.run(command, input=given.encode(), env={}, capture_output=True, check=True)


def _processor_time() -> Figure:
    """Of one program with all locks on, beside a bare interpreter without any, each from its start to its end."""
    entry = "srpo_core.sandbox.inside.program"
    zygote = Zygote(Profile("A"), [entry])
    task = {"code": PROGRAM}
    ours = [run_together([Task(zygote, entry, task, Limits(), b"1 2")])[0].cpu for _ in CALLS]
    zygote.close()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in CALLS:
        subprocess.run([interpreter(), "-I", "-S", "-c", PROGRAM], input=b"1 2", stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    bare = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figure("processor time of a program", 1000 * statistics.median(ours), "ms", 1000 * bare / len(CALLS))


def _start_seconds() -> Figure:
    start = time.perf_counter()
    with CodeVerifier() as verifier:
        verifier.judge([(CALLS[0][0], CodeTests(asserts=(CALLS[0][1],)))])
        return Figure("first judgement of a new verifier, two zygotes", time.perf_counter() - start, "s")
