"""Real problems with their own solutions."""

import json
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import NEEDS_LEVEL_A

from srpo_core.rewards.code import CodeJudgement, CodeTests, CodeVerifier
from srpo_core.sandbox import Limits

UNJUDGED: dict[int, str] = {}
"""MBPP's reference solutions that do not pass, by task, each with its reason: none."""

LIMITS = Limits(wall_seconds=120.0, cpu_seconds=30.0)


@pytest.fixture(scope="module")
def mbpp(shared_data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared_data / "mbpp" / "mbpp.jsonl").read_text().splitlines()]


def its_tests(row: dict[str, Any]) -> CodeTests:
    return CodeTests(asserts=(*row["test_list"], *row["challenge_test_list"]), setup=row["test_setup_code"])


def judge(jobs: list[tuple[str, CodeTests]]) -> list[CodeJudgement]:
    with CodeVerifier(workers=2, limits=LIMITS) as verifier:
        return verifier.judge(jobs)


@NEEDS_LEVEL_A
@pytest.mark.slow
def test_the_reference_solutions_of_mbpp_pass(mbpp: list[dict[str, Any]]) -> None:
    judgements = judge([(row["code"], its_tests(row)) for row in mbpp])
    failed = {
        row["task_id"]: judged for row, judged in zip(mbpp, judgements, strict=True) if judged.verdict != "passed"
    }
    assert failed.keys() == UNJUDGED.keys(), failed
    assert len(mbpp) - len(failed) >= 970


@NEEDS_LEVEL_A
def test_a_sample_of_mbpp_passes(mbpp: list[dict[str, Any]]) -> None:
    """Classes, generators, counters, mutated arguments and a function named as a built-in are among them."""
    rows = [*mbpp[::25], *(row for row in mbpp if row["test_setup_code"] or row["task_id"] in (126, 601))]
    judgements = judge([(row["code"], its_tests(row)) for row in rows])
    assert [judged.verdict for judged in judgements] == ["passed"] * len(rows)


@NEEDS_LEVEL_A
def test_the_solution_of_another_problem_does_not_pass(mbpp: list[dict[str, Any]]) -> None:
    """It is given the name that is asked for, so that its answers decide."""
    rows = mbpp[10:40]
    jobs = []
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        wanted, given = (name_of(each["test_list"][0]) for each in (row, other))
        jobs.append((f"{other['code']}\n{wanted} = {given}", its_tests(row)))
    assert not [judged for judged in judge(jobs) if judged.verdict in ("passed", "sandbox_error")]


def name_of(test: str) -> str:
    import re

    from_call = re.search(r"(?:assert|not|\(|set\(|round\()\s*([a-zA-Z_]\w*)\(", test)
    assert from_call is not None
    return from_call[1]


# Of problems in the contest file, by a line of their text: solutions written for this test.
SOLUTIONS = {
    "asc-desc-ending": (
        "n, m = map(int, input().split())\n"
        "flip = lambda s: ''.join(c if i % 2 == 0 else chr(155 - ord(c)) for i, c in enumerate(s))\n"
        "books = [(flip(input().strip()), i + 1) for i in range(n)]\nprint(*[i for _, i in sorted(books)])"
    ),
}


@NEEDS_LEVEL_A
def test_a_contest_solution_passes_and_the_echo_of_its_input_does_not(shared_data: Path) -> None:
    rows = json.loads((shared_data / "code_contests" / "test.json").read_text())
    for line, solution in SOLUTIONS.items():
        row = next(row for row in rows if line in row["problem"])
        tests = CodeTests(inputs=tuple(row["tests"]["inputs"]), outputs=tuple(row["tests"]["outputs"]))
        right, wrong = judge([(solution, tests), ("import sys\nprint(sys.stdin.read())", tests)])
        assert (right.verdict, right.passed) == ("passed", tests.total)
        assert wrong.verdict == "wrong_answer"


@NEEDS_LEVEL_A
@pytest.mark.slow
def test_contest_tests_are_fed_and_compared_whole(shared_data: Path) -> None:
    """A program that knows the answers by a digest of the input passes each problem, so no input is lost or changed."""
    rows = json.loads((shared_data / "code_contests" / "test.json").read_text())
    jobs = []
    for row in rows:
        pairs = dict(zip(row["tests"]["inputs"], row["tests"]["outputs"], strict=True))
        program = f"import sys\nprint({pairs!r}[sys.stdin.read()], end='')"
        jobs.append((program, CodeTests(inputs=tuple(pairs), outputs=tuple(pairs.values()))))
    assert not [judged for judged in judge(jobs) if judged.verdict != "passed"]
