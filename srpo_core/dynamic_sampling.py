"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): a step is refilled until enough groups teach something."""

from collections.abc import Iterable, Mapping, Sequence

from srpo_core.policy.advantages import REWARD_TOLERANCE
from srpo_core.seeds import derive_seed, generator


def is_informative(accuracies: Sequence[float | None]) -> bool:
    """Whether the graded accuracies of a group differ; None is ungraded, and a group without a grade tells nothing."""
    graded = [accuracy for accuracy in accuracies if accuracy is not None]
    return bool(graded) and max(graded) - min(graded) > REWARD_TOLERANCE


class StepRounds:
    """The rounds in which one step is sampled, each decided by the outcomes of those before it and nothing else.

    The first round is the plan's. While fewer than `needed` groups are informative, and fewer than `max_rounds`
    rounds were sampled, another one is drawn from the epoch's prompts that the step does not have yet. With
    `max_rounds` 0 there is no dynamic sampling: one round, of which everything is used.
    """

    def __init__(
        self,
        planned: Sequence[str],
        epoch_prompts: Iterable[str],
        *,
        needed: int,
        max_rounds: int,
        seed_key: tuple[int | str, ...],
    ) -> None:
        """`seed_key`, with the round behind it, seeds a round's draw: (run seed, "refill", stage, epoch, step)."""
        self._planned = list(planned)
        self._epoch_prompts = sorted(epoch_prompts)
        self._needed = needed
        self._max_rounds = max_rounds
        self._seed_key = seed_key
        self._informative: dict[str, bool] = {}
        self.rounds = 0

    @property
    def is_dynamic(self) -> bool:
        """Whether outcomes matter at all."""
        return self._max_rounds > 0

    @property
    def missing(self) -> int:
        """Informative groups that the step still lacks."""
        return max(0, self._needed - sum(self._informative.values()))

    @property
    def groups(self) -> int:
        """Groups recorded so far."""
        return len(self._informative)

    @property
    def used_groups(self) -> int:
        """Groups that the update uses, of those recorded so far."""
        return self._needed - self.missing

    def next_round(self) -> list[str]:
        """The prompts of the next round; none when the step is full, its rounds are spent, or no prompt is left.

        A round is as large as should fill the step if as many of its groups are informative as were so far, and
        never larger than a step: the surplus of a lucky round is small, and rounds are few.
        """
        if self.rounds == 0:
            prompts = self._planned
        elif self.rounds < self._max_rounds and self.missing:
            left = [prompt for prompt in self._epoch_prompts if prompt not in self._informative]
            order = generator(derive_seed(*self._seed_key, self.rounds)).permutation(left)
            prompts = [str(prompt) for prompt in order[: self._refill_size()]]
        else:
            prompts = []
        self.rounds += bool(prompts)
        return prompts

    def used(self, informative: Mapping[str, bool]) -> dict[str, bool]:
        """Whether the update uses each of the groups that come next: the informative ones, until the step is full."""
        if not self.is_dynamic:
            return dict.fromkeys(informative, True)
        used, missing = {}, self.missing
        for prompt, teaches in informative.items():
            used[prompt] = teaches and missing > 0
            missing -= used[prompt]
        return used

    def record(self, informative: Mapping[str, bool]) -> None:
        """Take note of the groups that came next, by prompt: whether each was informative."""
        self._informative |= informative

    def _refill_size(self) -> int:
        found = sum(self._informative.values())
        expected = -(-self.missing * len(self._informative) // found) if found else self._needed
        return min(self._needed, expected)
