"""Properties of the grade: parts apart, accuracy alone decides, everything gets a verdict or a clear refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.problems.lab.world import DOMAINS, lab_problems, parse_question, problem_of, solution
from srpo_core.problems.problem import Problem
from srpo_core.rewards.grade import Grade, RewardWeights, UnsupportedProblemError, grade

WEIGHTS = RewardWeights(accuracy=1.0, format=0.25)
MATH = problem_of(parse_question("math", "has 6 gets 1 loses 3"))
CODE = problem_of(parse_question("code", "f 2*x+5 add 3 mul 2"))


def judge(problem: Problem, completion: str, *, truncated: bool = False, process: bool = False) -> Grade:
    return grade(problem, completion, truncated=truncated, weights=WEIGHTS, process=process)


@pytest.mark.parametrize("process", [True, False])
def test_the_worlds_own_solutions_earn_everything(process: bool) -> None:
    cells = {(domain, n): 5 for domain in DOMAINS for n in range(1, 9)}
    for problem in lab_problems("heldout", cells, 0):
        assert judge(problem, solution(problem), process=process) == Grade(1.25, 1.0, 1.0, "correct")


@pytest.mark.parametrize(
    ("problem", "completion", "process", "expected"),
    [
        (MATH, "<think>6+1=7-3=4</think><answer>5</answer>", False, Grade(0.25, 0.0, 1.0, "wrong_answer")),
        (MATH, "<think>6+1=8-3=4</think><answer>4</answer>", False, Grade(1.25, 1.0, 1.0, "correct")),
        (MATH, "<think>6+1=8-3=4</think><answer>4</answer>", True, Grade(0.25, 0.0, 1.0, "wrong_thought")),
        (MATH, "<answer>4</answer>", False, Grade(1.0, 1.0, 0.0, "correct")),
        (MATH, "<answer>4</answer>", True, Grade(0.0, 0.0, 0.0, "wrong_thought")),
        (MATH, "4", False, Grade(0.0, 0.0, 0.0, "no_answer")),
        (MATH, "<think></think><answer>4*x</answer>", False, Grade(0.25, 0.0, 1.0, "wrong_answer")),
        (CODE, "<think></think><answer>4*x+</answer>", False, Grade(0.25, 0.0, 1.0, "invalid_expression")),
        (CODE, "<think></think><answer>4*x</answer>", False, Grade(0.25, 0.0, 1.0, "wrong_answer")),
        (CODE, "<think></think><answer>16+4*x</answer>", False, Grade(1.25, 1.0, 1.0, "correct")),
        (CODE, "<think>+3=2,8</think><answer>4*x+16</answer>", True, Grade(0.25, 0.0, 1.0, "wrong_thought")),
    ],
)
def test_parts_are_apart_and_the_reward_is_their_weighted_sum(
    problem: Problem, completion: str, process: bool, expected: Grade
) -> None:
    assert judge(problem, completion, process=process) == expected


@pytest.mark.parametrize("problem", [MATH, CODE])
def test_a_truncated_completion_is_wrong_whatever_stands_in_it(problem: Problem) -> None:
    assert judge(problem, solution(problem), truncated=True) == Grade(0.0, 0.0, 0.0, "truncated")


@given(st.sampled_from([MATH, CODE]), st.text(), st.text(), st.booleans())
def test_everything_gets_a_verdict(problem: Problem, thought: str, answer: str, process: bool) -> None:
    for completion in (answer, f"<think>{thought}</think><answer>{answer}</answer>"):
        result = judge(problem, completion, process=process)
        assert result.accuracy in (0.0, 1.0)
        assert (result.verdict == "correct") == (result.accuracy == 1.0)


def test_format_alone_never_makes_a_wrong_answer_solved() -> None:
    generous = RewardWeights(accuracy=0.1, format=100.0)
    result = grade(MATH, "<think></think><answer>9</answer>", truncated=False, weights=generous, process=False)
    assert result.accuracy == 0.0


@pytest.mark.parametrize(
    "problem",
    [
        Problem("code", 1, "Write a function that sorts a list.", "assert f([2, 1]) == [1, 2]", "elsewhere"),
        Problem("math", 1, "Prove it.", "1/2", "elsewhere"),
    ],
)
def test_a_problem_nobody_can_judge_is_refused_with_what_is_supported(problem: Problem) -> None:
    with pytest.raises(UnsupportedProblemError) as refusal:
        judge(problem, "<answer>4</answer>")
    message = str(refusal.value)
    assert problem.id in message
    assert "math problems of source 'lab'" in message
    assert "general code execution is not supported" in message
