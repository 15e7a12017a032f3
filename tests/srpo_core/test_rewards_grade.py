"""Properties of the grade: parts apart, accuracy alone decides, everything gets a verdict or a clear refusal."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.problems.lab.world import DOMAINS, lab_problems, parse_question, problem_of, solution
from srpo_core.problems.problem import Problem
from srpo_core.rewards.code import CodeTests
from srpo_core.rewards.grade import Answered, Grade, Grader
from srpo_core.rewards.verifiers import UnsupportedProblemError, Verifiers
from srpo_core.settings.rewards import RewardSettings, VerifierSettings

REWARDS = RewardSettings(accuracy=1.0, format=0.25, code_in_math=0.5, mixed_language=0.125)
MATH = problem_of(parse_question("math", "has 6 gets 1 loses 3"))
CODE = problem_of(parse_question("code", "f 2*x+5 add 3 mul 2"))
HALF = Problem("math", 1, "What is one half?", "\\frac{1}{2}", "elsewhere")
DOUBLE_TESTS = CodeTests(asserts=("assert double(2) == 4", "assert double(0) == 0"), entry_point="double")
DOUBLE = Problem("code", 1, "Write double(x).", DOUBLE_TESTS.to_json(), "elsewhere")


def lab_grader(*, check_thought: bool = False, rewards: RewardSettings = REWARDS) -> Grader:
    return Grader(rewards, Verifiers(VerifierSettings(), check_thought=check_thought), max_new_tokens=64)


def lab_grade(problem: Problem, text: str, *, truncated: bool = False, check_thought: bool = False) -> Grade:
    (result,) = lab_grader(check_thought=check_thought).grade([Answered(problem, text, 10, truncated)])
    return result


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with Verifiers(VerifierSettings(workers=1), check_thought=False) as each:
        yield each


def graded(verifiers: Verifiers, answers: Sequence[tuple[Problem, str]]) -> list[Grade]:
    grader = Grader(REWARDS, verifiers, max_new_tokens=64)
    return grader.grade([Answered(problem, text, 10, truncated=False) for problem, text in answers])


@pytest.mark.parametrize("check_thought", [True, False])
def test_the_worlds_own_solutions_earn_everything(check_thought: bool) -> None:
    cells = {(domain, n): 5 for domain in DOMAINS for n in range(1, 9)}
    for problem in lab_problems("heldout", cells, 0):
        assert lab_grade(problem, solution(problem), check_thought=check_thought) == Grade(1.25, 1.0, 1.0, "correct")


@pytest.mark.parametrize(
    ("problem", "completion", "check_thought", "expected"),
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
    problem: Problem, completion: str, check_thought: bool, expected: Grade
) -> None:
    assert lab_grade(problem, completion, check_thought=check_thought) == expected


@pytest.mark.parametrize("problem", [MATH, CODE, HALF, DOUBLE])
def test_a_truncated_completion_is_wrong_whatever_stands_in_it(problem: Problem) -> None:
    text = solution(problem) if problem.source == "lab" else "<think></think><answer>\\boxed{1/2}</answer>"
    assert lab_grade(problem, text, truncated=True) == Grade(0.0, 0.0, 0.0, "truncated")


@given(st.sampled_from([MATH, CODE]), st.text(), st.text(), st.booleans())
def test_everything_gets_a_verdict(problem: Problem, thought: str, answer: str, check_thought: bool) -> None:
    for completion in (answer, f"<think>{thought}</think><answer>{answer}</answer>"):
        result = lab_grade(problem, completion, check_thought=check_thought)
        assert result.accuracy in (0.0, 1.0)
        assert (result.verdict == "correct") == (result.accuracy == 1.0)


def test_format_alone_never_makes_a_wrong_answer_solved() -> None:
    generous = lab_grader(rewards=RewardSettings(accuracy=0.1, format=100.0))
    (result,) = generous.grade([Answered(MATH, "<think></think><answer>9</answer>", 10, truncated=False)])
    assert result.accuracy == 0.0


def test_the_overlong_penalty_is_taken_off_and_leaves_the_accuracy(verifiers: Verifiers) -> None:
    rewards = RewardSettings(format=0.0, overlong=2.0, overlong_buffer=20)
    grader = Grader(rewards, verifiers, max_new_tokens=100)
    grades = grader.grade([Answered(MATH, "<answer>4</answer>", tokens, truncated=False) for tokens in (80, 85, 99)])
    assert [(each.accuracy, each.overlong) for each in grades] == [(1.0, 0.0), (1.0, 0.25), (1.0, 0.95)]
    assert [each.reward for each in grades] == pytest.approx([1.0, 0.5, -0.9])


def test_answers_of_all_kinds_are_judged_together_and_come_back_in_order(verifiers: Verifiers) -> None:
    right = "<think>x</think><answer>```python\ndef double(x):\n    return 2 * x\n```</answer>"
    half = "<think>x</think><answer>```python\ndef double(x):\n    return 3 * x\n```</answer>"
    wrapped = "<think>x</think><answer>\\boxed{0.5}</answer>"
    grades = graded(verifiers, [(DOUBLE, right), (HALF, wrapped), (MATH, "4"), (DOUBLE, half), (HALF, "\\boxed{2}")])
    assert [(each.verdict, each.accuracy, each.tests_passed) for each in grades] == [
        ("passed", 1.0, 1.0),
        ("correct", 1.0, None),
        ("no_answer", 0.0, None),
        ("wrong_answer", 0.0, 0.5),
        ("wrong_answer", 0.0, None),
    ]
    assert [each.reward for each in grades] == [1.25, 1.25, 0.0, 0.25, 0.0]


def test_code_and_another_language_in_a_math_solution_cost_their_weights(verifiers: Verifiers) -> None:
    code = "<think>\n```python\nprint(1/2)\n```\n</think><answer>\\boxed{1/2}</answer>"
    mixed = "<think>所以答案是一半</think><answer>\\boxed{1/2}</answer>"
    with_code, with_language = graded(verifiers, [(HALF, code), (HALF, mixed)])
    assert (with_code.reward, with_code.code_in_math, with_code.accuracy) == (0.75, 1.0, 1.0)
    assert (with_language.reward, with_language.mixed_language, with_language.accuracy) == (1.125, 1.0, 1.0)


def test_a_rollout_that_a_verifier_could_not_judge_is_ungraded_and_never_a_zero(verifiers: Verifiers) -> None:
    unreadable = Problem("math", 1, "What is it?", "7=3", "elsewhere")
    broken = CodeTests(asserts=("assert double(2) == 4",), entry_point="double", setup="raise ValueError")
    no_tests_run = Problem("code", 1, "Write double(x).", broken.to_json(), "elsewhere")
    program = "<think>x</think><answer>```python\ndef double(x):\n    return 2 * x\n```</answer>"
    math, code = graded(verifiers, [(unreadable, "\\boxed{5}"), (no_tests_run, program)])
    assert (math.verdict, math.accuracy, math.reward) == ("gold_unreadable", None, None)
    assert (code.verdict, code.accuracy, code.reward, code.tests_passed) == ("sandbox_error", None, None, None)
    assert code.format == 1.0


def test_code_in_a_program_is_no_fault(verifiers: Verifiers) -> None:
    (grade,) = graded(verifiers, [(DOUBLE, "```python\ndef double(x):\n    return 2 * x\nprint(1)\nprint(2)\n```")])
    assert (grade.verdict, grade.code_in_math) == ("passed", 0.0)


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (Problem("code", 1, "Write a function that sorts a list.", CodeTests.__name__, "elsewhere"), "tests"),
        (Problem("code", 1, "Write a function that sorts a list.", "{}", "elsewhere"), "test"),
        (Problem("math", 1, "Prove it.", " ", "elsewhere"), "no answer"),
    ],
)
def test_a_problem_nobody_can_judge_is_refused_before_anything_is_sampled(
    verifiers: Verifiers, problem: Problem, why: str
) -> None:
    with pytest.raises(UnsupportedProblemError) as refusal:
        verifiers.check([MATH, HALF, problem])
    assert problem.id in str(refusal.value)
    assert why in str(refusal.value).lower()


def test_problems_that_can_be_judged_are_not_refused(verifiers: Verifiers) -> None:
    verifiers.check([MATH, CODE, HALF, DOUBLE])
    assert verifiers.runs_programs([MATH, DOUBLE])
    assert not verifiers.runs_programs([MATH, CODE, HALF])
