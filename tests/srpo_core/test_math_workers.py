"""Math answers that take for ever, or all memory: judged within their limits, and nothing of them stays."""

import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from srpo_core.rewards.math import MathVerifier
from srpo_core.rewards.math_worker import MOST_ANSWERS

BOMBS = {
    "a tower of powers": r"9^{9^{9^9}}",
    "a factorial": r"10^8!",
    "a factorial of factorials": "((10!)!)!",
    "a binomial coefficient": r"\binom{10^9}{5\cdot10^8}",
    "5,000 parentheses": "(" * 5_000 + "1" + ")" * 5_000,
    "a set of 3,000": "\\{" + ",".join(map(str, range(3_000))) + "\\}",
    "a large power of a sum": "(x+y+z+w)^{200}",
}
ENDLESS = r"\sin(e^{e^{e^{3}}})"
"""Passes every limit on its text; sympy would compute pi to hundreds of millions of digits."""
SECONDS = 20.0


def children() -> set[int]:
    """Processes that this one started and has not waited for, zombies too."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return {int(pid) for text in lists for pid in text.split()}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def pages(pid: int, column: int) -> int:
    """Bytes from /proc/PID/statm: 0 is address space, 1 is memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[column]) * resource.getpagesize()


def wait_for_end(pid: int, seconds: float) -> bool:
    """Whether a process, ours or not, ends in time."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], seconds)[0])
    finally:
        os.close(watched)


@contextmanager
def started(**limits: float) -> Iterator[tuple[MathVerifier, Callable[[], set[int]]]]:
    """A verifier of a test's own, and which processes are its workers."""
    others = children()
    with MathVerifier(**limits) as verifier:  # type: ignore[arg-type]
        yield verifier, lambda: children() - others


def verdicts(verifier: MathVerifier, *pairs: tuple[str, str]) -> list[str]:
    return [judgement.verdict for judgement in verifier.judge(pairs)]


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(workers=2, seconds=SECONDS) as started:
        yield started


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_answered_within_its_limit_and_leaves_nothing(verifier: MathVerifier, bomb: str) -> None:
    assert verdicts(verifier, *[("5", r"\boxed{5}")] * 8) == ["correct"] * 8
    workers = children()
    memory = max(pages(pid, 1) for pid in workers)
    as_prediction, as_gold = verifier.judge([("5", f"\\boxed{{{bomb}}}"), (bomb, r"\boxed{5}")])
    assert as_prediction.verdict in ("too_large", "wrong_answer")
    assert as_gold.verdict in ("gold_unreadable", "wrong_answer")
    assert max(as_prediction.seconds, as_gold.seconds) < SECONDS
    assert verdicts(verifier, *[("5", r"\boxed{5}")] * 8) == ["correct"] * 8
    assert children() == workers
    assert max(pages(pid, 1) for pid in workers) < memory + (64 << 20)


def test_only_the_large_power_is_small_enough_to_be_compared(verifier: MathVerifier) -> None:
    said = verdicts(verifier, *[("5", f"\\boxed{{{bomb}}}") for bomb in BOMBS.values()])
    assert said == ["too_large"] * 6 + ["wrong_answer"]


def test_timeout_kills_the_worker_and_the_pool_is_full_again() -> None:
    with started(workers=2, seconds=1) as (verifier, workers):
        assert verdicts(verifier, *[("5", r"\boxed{5}")] * 8) == ["correct"] * 8
        before, open_files = workers(), descriptors()
        assert verdicts(verifier, *[("5", f"\\boxed{{{ENDLESS}}}")] * 3) == ["timeout"] * 3
        assert verdicts(verifier, *[("5", r"\boxed{5}")] * 8) == ["correct"] * 8
        assert len(workers()) == len(before) == 2
        assert len(workers() & before) < 2
        assert descriptors() == open_files


def test_a_gold_answer_that_never_ends_is_the_problems_fault() -> None:
    with MathVerifier(seconds=1) as verifier:
        assert verdicts(verifier, (ENDLESS, r"\boxed{5}"), ("5", r"\boxed{5}")) == ["gold_unreadable", "correct"]
        again = verifier.judge([(ENDLESS, r"\boxed{6}")])[0]
        assert (again.verdict, again.seconds < 0.5) == ("gold_unreadable", True)


def test_memory_is_limited_and_the_worker_that_met_the_limit_is_replaced() -> None:
    with started() as (verifier, workers):
        verifier.judge([("5", r"\boxed{5}")])
        (worker,) = workers()
        peak = next(line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if "VmPeak" in line)
        enough = int(peak.split()[1]) * 1024 + (1 << 20)
    equation = "(x+y+z+w)^{13}=1"
    with started(seconds=60, memory_bytes=enough) as (verifier, workers):
        assert verdicts(verifier, ("5", r"\boxed{5}")) == ["correct"]
        before = workers()
        assert verdicts(verifier, (equation, f"\\boxed{{2{equation}}}"), ("5", r"\boxed{5}")) == [
            "memory_exceeded",
            "correct",
        ]
        assert len(workers()) == 1
        assert workers() != before


def test_a_worker_killed_from_outside_costs_no_answer() -> None:
    with started() as (verifier, workers):
        assert verdicts(verifier, ("5", r"\boxed{5}")) == ["correct"]
        (worker,) = workers()
        os.kill(worker, signal.SIGKILL)
        assert wait_for_end(worker, 60)
        assert verdicts(verifier, ("5", r"\boxed{5}"), ("5", r"\boxed{6}")) == ["correct", "wrong_answer"]
        assert len(workers()) == 1


def test_several_threads_get_their_own_answers(verifier: MathVerifier) -> None:
    said: dict[int, list[str]] = {}

    def judge(number: int) -> None:
        pairs = [(str(number), f"\\boxed{{{given}}}") for given in range(6)]
        said[number] = verdicts(verifier, *pairs)

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {n: ["correct" if given == n else "wrong_answer" for given in range(6)] for n in range(6)}


def test_workers_are_replaced_after_so_many_answers() -> None:
    with started() as (verifier, workers):
        verifier.judge([("5", r"\boxed{5}")])
        first = workers()
        said = verdicts(verifier, *[("5", r"\boxed{5}")] * MOST_ANSWERS)
        assert set(said) == {"correct"}
        assert len(workers()) == 1
        assert workers() != first


def test_closing_leaves_no_process_and_no_descriptor() -> None:
    before, open_files = children(), descriptors()
    with MathVerifier(workers=2) as verifier:
        verifier.judge([("5", r"\boxed{5}")] * 4)
    assert children() == before
    assert descriptors() == open_files


_PARENT = f"""
import threading
from pathlib import Path
from srpo_core.rewards.math import MathVerifier
verifier = MathVerifier(seconds=SECONDS)
verifier.judge([("5", "5")])
lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
print("".join(lists), flush=True)
verifier.judge([("5", r"\\boxed{{{ENDLESS}}}")])
"""


@pytest.mark.parametrize("seconds", [1, 600], ids=["it ends by its own clock", "it ends with its socket"])
def test_no_worker_outlives_a_killed_parent(seconds: int) -> None:
    source = _PARENT.replace("SECONDS", str(seconds))
    if seconds == 600:
        source = source.rpartition("verifier.judge")[0] + "input()"
    with subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    assert wait_for_end(worker, 60)


def test_the_parent_never_imports_sympy() -> None:
    source = """
import sys
from srpo_core.rewards.math import MathVerifier
with MathVerifier() as verifier:
    print(verifier.judge([(r"\\frac12", r"\\boxed{0.5}")])[0].verdict)
print(sorted({"sympy", "math_verify", "latex2sympy2_extended", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["correct", "[]"]


def test_limits_that_make_no_sense_are_refused() -> None:
    for limits in ({"workers": 0}, {"seconds": 0.0}, {"memory_bytes": 0}):
        with pytest.raises(ValueError, match=r"worker|positive"):
            MathVerifier(**limits)
