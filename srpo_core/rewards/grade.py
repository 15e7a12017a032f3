"""What a completion is worth, part by part.

Every part is a figure of its own; the reward is their weighted sum, penalties subtracted. Accuracy alone says whether
a rollout was solved (History Resampling reads it), so no bonus can make a wrong answer look solved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from srpo_core.problems.problem import Problem
from srpo_core.rewards.format import read_sections
from srpo_core.rewards.penalties import code_in_math, mixed_language, overlong
from srpo_core.rewards.verifiers import Judgement, Verifiers
from srpo_core.settings.rewards import RewardSettings


@dataclass(frozen=True)
class Answered:
    """One completion of one problem: its text, its length in tokens, and whether it was cut at the limit."""

    problem: Problem
    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Grade:
    """One completion's worth. Every part is in 0..1.

    `reward` and `accuracy` are None when ungraded, which leaves the update; `tests_passed` is None where no tests ran.
    """

    reward: float | None
    accuracy: float | None
    format: float
    verdict: str
    tests_passed: float | None = None
    code_in_math: float = 0.0
    mixed_language: float = 0.0
    overlong: float = 0.0


class Grader:
    """Grades completions by the weights of `rewards` and the judgements of `verifiers`."""

    def __init__(self, rewards: RewardSettings, verifiers: Verifiers, *, max_new_tokens: int) -> None:
        """`max_new_tokens` is the length at which completions are cut, in tokens."""
        self._rewards = rewards
        self._verifiers = verifiers
        self._max_new_tokens = max_new_tokens

    def grade(self, completions: Sequence[Answered]) -> list[Grade]:
        """The grades of completions, in order.

        A completion cut at the maximum length is wrong, whatever stands in it. Raises SandboxUnavailable.
        """
        whole = [place for place, answered in enumerate(completions) if not answered.truncated]
        judged = self._verifiers.judge([(completions[place].problem, completions[place].text) for place in whole])
        judgements = dict(zip(whole, judged, strict=True))
        cut = Judgement("truncated", 0.0)
        return [self._sum(answered, judgements.get(place, cut)) for place, answered in enumerate(completions)]

    def _sum(self, answered: Answered, judgement: Judgement) -> Grade:
        weights, problem, text = self._rewards, answered.problem, answered.text
        well_formed = float(read_sections(text).well_formed and not answered.truncated)
        code = code_in_math(text) if problem.domain == "math" else 0.0
        mixed = mixed_language(problem.question, text)
        late = overlong(answered.tokens, self._max_new_tokens, weights.overlong_buffer) if weights.overlong else 0.0
        reward = None
        if judgement.accuracy is not None:
            bonus = weights.accuracy * judgement.accuracy + weights.format * well_formed
            reward = bonus - weights.code_in_math * code - weights.mixed_language * mixed - weights.overlong * late
        return Grade(
            reward=reward,
            accuracy=judgement.accuracy,
            format=well_formed,
            verdict=judgement.verdict,
            tests_passed=judgement.tests_passed,
            code_in_math=code,
            mixed_language=mixed,
            overlong=late,
        )
