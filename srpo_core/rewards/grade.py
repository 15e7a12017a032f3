"""What a completion is worth, part by part.

Accuracy and format are parts of their own; the reward is their weighted sum. Accuracy alone says whether a rollout
was solved (History Resampling reads it), so no bonus can make a wrong answer look solved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from srpo_core.problems.lab.world import SOURCE as LAB
from srpo_core.problems.lab.world import parse_question
from srpo_core.problems.problem import Problem
from srpo_core.rewards.format import read_sections
from srpo_core.rewards.lab.code import judge_expression, true_refactoring_thought
from srpo_core.rewards.lab.math import same_integer, true_running_thought

Verdict = Literal["correct", "wrong_answer", "wrong_thought", "invalid_expression", "no_answer", "truncated"]


@dataclass(frozen=True)
class RewardWeights:
    """What each part counts in the reward."""

    accuracy: float = 1.0
    format: float = 0.0


@dataclass(frozen=True)
class Grade:
    """One completion's worth. Every part is in 0..1; None means ungraded, which leaves the update."""

    reward: float | None
    accuracy: float | None
    format: float | None
    verdict: str


class UnsupportedProblemError(ValueError):
    """No verifier can judge this problem; the message names the problem and what is supported."""


Verifier = Callable[[Problem, str, str | None, bool], Verdict]


def grade(problem: Problem, completion_text: str, *, truncated: bool, weights: RewardWeights, process: bool) -> Grade:
    """Judges one completion. With `process` the running thought must be right too, not only the answer.

    A completion cut at the maximum length (`truncated`) is wrong, whatever stands in it. Raises
    UnsupportedProblemError for a problem that no verifier can judge.
    """
    verifier = _verifier(problem)
    sections = read_sections(completion_text)
    verdict: Verdict
    if truncated:
        verdict = "truncated"
    elif sections.answer is None:
        verdict = "no_answer"
    else:
        verdict = verifier(problem, sections.answer, sections.thought, process)
    accuracy = 1.0 if verdict == "correct" else 0.0
    format_part = 1.0 if sections.well_formed and not truncated else 0.0
    reward = weights.accuracy * accuracy + weights.format * format_part
    return Grade(reward, accuracy, format_part, verdict)


def _lab_math(problem: Problem, answer: str, thought: str | None, process: bool) -> Verdict:
    if not same_integer(answer, problem.answer):
        return "wrong_answer"
    if not process:
        return "correct"
    chain = parse_question("math", problem.question)
    operations = [(step.symbol, step.operand) for step in chain.operations]
    right = thought is not None and true_running_thought(thought, chain.start[0], operations, answer)
    return "correct" if right else "wrong_thought"


def _lab_code(problem: Problem, answer: str, thought: str | None, process: bool) -> Verdict:
    outcome = judge_expression(answer, problem.answer)
    if outcome != "correct" or not process:
        return outcome
    chain = parse_question("code", problem.question)
    operations = [(step.symbol, step.operand) for step in chain.operations]
    slope, intercept = chain.start
    right = thought is not None and true_refactoring_thought(thought, (slope, intercept), operations, answer)
    return "correct" if right else "wrong_thought"


VERIFIERS: dict[tuple[str, str], Verifier] = {(LAB, "math"): _lab_math, (LAB, "code"): _lab_code}
"""Who judges what, by (source, domain): the one place where a new verifier is entered."""


def _verifier(problem: Problem) -> Verifier:
    verifier = VERIFIERS.get((problem.source, problem.domain))
    if verifier is None:
        supported = ", ".join(f"{domain} problems of source {source!r}" for source, domain in VERIFIERS)
        raise UnsupportedProblemError(
            f"problem {problem.id} ({problem.domain}, source {problem.source!r}) cannot be judged: supported are "
            f"{supported}; general code execution is not supported"
        )
    return verifier
