"""`srpo grade`: a line out for a line in, in order, whatever stands in it; the exit status tells of bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WRONG_USE = 2


def srpo_grade(kind: str, lines: list[Any], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the answers of `srpo grade KIND -`; texts are lines as they are."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    done = subprocess.run(
        [sys.executable, "-m", "flows", "grade", kind, "-", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_math_answers_come_back_judged_and_in_order_with_their_own_fields() -> None:
    pairs = [
        ("\\frac{1}{2}", "\\boxed{0.5}", True),
        ("\\frac{1}{3}", "\\boxed{0.333}", False),
        ("7", "seven eggs", False),
    ]
    lines = [{"id": n, "gold": gold, "prediction": told} for n, (gold, told, _) in enumerate(pairs)]
    status, answers = srpo_grade("math", lines)
    assert status == 0
    assert [answer["correct"] for answer in answers] == [right for *_, right in pairs]
    for line, answer in zip(lines, answers, strict=True):
        assert answer.items() >= line.items()
        assert set(answer) == {*line, "correct", "verdict", "seconds"}
        assert isinstance(answer["verdict"], str)
        assert answer["seconds"] >= 0


def test_a_whole_completion_is_a_prediction() -> None:
    completion = "<think>\\boxed{3} or more</think>\n<answer>So it is $\\boxed{4}$.</answer>"
    _, answers = srpo_grade("math", [{"gold": "4", "prediction": completion}, {"gold": "3", "prediction": completion}])
    assert [answer["correct"] for answer in answers] == [True, False]


@pytest.mark.parametrize(
    "line",
    [
        "not json", "[1, 2]", '{"gold": "1"}', '{"gold": 1, "prediction": "1"}', '{"gold": "1", "prediction": null}',
        '{"gold": NaN, "prediction": "1"}', "[" * 100_000,
        '{"gold": "' + "9" * 10 + '", "prediction": ' + "9" * 10_000 + "}",
    ],
)  # fmt: skip
def test_a_malformed_line_is_named_by_its_number_and_the_rest_go_on(line: str) -> None:
    good = {"gold": "1", "prediction": "\\boxed{1}"}
    status, answers = srpo_grade("math", [good, line, good])
    assert status == WRONG_USE
    assert [answer["verdict"] for answer in answers] == ["correct", "bad_input", "correct"]
    assert answers[1]["line"] == 2
    assert answers[1]["correct"] is False
    assert answers[1]["error"]


def test_bytes_that_are_no_text_are_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(b'{"gold": "1", "prediction": "\xff\xfe"}\n\n{"gold": "1", "prediction": "\\\\boxed{1}"}\n')
    done = subprocess.run(
        [sys.executable, "-m", "flows", "grade", "math", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == WRONG_USE
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["bad_input", "correct"]


def test_a_lone_surrogate_is_judged_like_any_other_text() -> None:
    status, answers = srpo_grade("math", ['{"gold": "1", "prediction": "\\\\boxed{\\ud800}"}'])
    assert status == 0
    assert answers[0]["correct"] is False


def test_programs_of_every_form_are_judged() -> None:
    double = "def double(x):\n    return 2 * x\n"
    lines: list[dict[str, Any]] = [
        {"code": double, "tests": ["assert double(2) == 4", "assert double(-1) == -2"]},
        {"code": double, "tests": ["assert double(2) == 5"]},
        {"code": double, "test": "def check(candidate):\n    assert candidate(3) == 6\n", "entry_point": "double"},
        {"code": "print(int(input()) * 2)", "inputs": ["2\n", "5\n"], "outputs": ["4\n", "10"]},
        {"code": "print(int(input()) * 3)", "inputs": ["2\n"], "outputs": ["4\n"]},
        {"code": "def double(x:", "tests": ["assert double(2) == 4"]},
        {"code": "def f(x):\n    return G(x)", "tests": ["assert f(2) == 4"]},
        {"code": "while True: pass", "inputs": [""], "outputs": [""]},
    ]
    limits = ["--set", "verifiers.code_wall_seconds=2", "--set", "verifiers.code_cpu_seconds=1"]
    status, answers = srpo_grade("code", lines, *limits)
    assert status == 0
    assert [answer["verdict"] for answer in answers] == [
        "passed", "wrong_answer", "passed", "passed", "wrong_answer", "compile_error", "runtime_error", "timeout",
    ]  # fmt: skip
    assert [answer["correct"] for answer in answers] == [answer["verdict"] == "passed" for answer in answers]
    assert all(answer.items() >= line.items() for line, answer in zip(lines, answers, strict=True))


@pytest.mark.parametrize(
    "line",
    [
        {"code": "x = 1"},
        {"code": "x = 1", "tests": []},
        {"code": 1, "tests": ["assert True"]},
        {"code": "x = 1", "tests": "assert True"},
        {"code": "x = 1", "inputs": ["1"], "outputs": []},
        {"code": "x = 1", "tests": ["assert x"], "inputs": ["1"], "outputs": ["1"]},
        {"tests": ["assert True"]},
    ],
)
def test_a_program_without_usable_tests_is_bad_input(line: dict[str, Any]) -> None:
    good = {"code": "def one():\n    return 1", "tests": ["assert one() == 1"]}
    status, answers = srpo_grade("code", [line, good])
    assert status == WRONG_USE
    assert [answer["verdict"] for answer in answers] == ["bad_input", "passed"]
    assert answers[0]["line"] == 1


def test_a_file_that_is_not_there_is_told_with_a_status(tmp_path: Path) -> None:
    for kind in ("math", "code"):
        done = subprocess.run(
            [sys.executable, "-m", "flows", "grade", kind, str(tmp_path / "none.jsonl")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == WRONG_USE
        assert done.stderr.startswith("srpo: ")
        assert "none.jsonl" in done.stderr


def test_an_empty_file_is_judged_at_once() -> None:
    assert srpo_grade("math", []) == (0, [])
    assert srpo_grade("code", []) == (0, [])


def test_answers_come_while_the_input_is_still_open() -> None:
    """A program that pipes one answer at a time must not wait for a batch to fill."""
    grading = subprocess.Popen(
        [sys.executable, "-m", "flows", "grade", "math", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    assert grading.stdin is not None
    assert grading.stdout is not None
    for gold in ("1", "2"):
        grading.stdin.write(json.dumps({"gold": gold, "prediction": "\\boxed{1}"}).encode() + b"\n")
        grading.stdin.flush()
        assert json.loads(grading.stdout.readline())["correct"] is (gold == "1")
    grading.stdin.close()
    assert grading.wait(60) == 0
