"""What the pipeline asks of any engine that samples completions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

FinishReason = Literal["stop", "length"]
Tell = Callable[[int], None]
"""Hears, from any thread, how many more completions were finished: for those who wait."""


def unheard(_more: int) -> None:
    """Nobody waits."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: `temperature` > 0 divides the logits; at most `max_new_tokens` tokens."""

    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class PromptGroup:
    """One prompt and the seeds of its samples: one completion is drawn per seed."""

    prompt_token_ids: Sequence[int]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Completion:
    """One sampled completion of T tokens, the end-of-sequence token included when it was drawn.

    `token_ids` int32 (T,); `logprobs` float32 (T,): the log-probability, under the distribution it was
    drawn from, of each token.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    finish_reason: FinishReason


class RolloutEngine(Protocol):
    """Samples groups of completions from one policy version at a time."""

    def load(self, checkpoint: Path) -> None:
        """Serve the policy stored in `checkpoint`, a published policy version, from now on."""

    def generate(
        self, groups: Sequence[PromptGroup], sampling: Sampling, tell: Tell = unheard
    ) -> list[list[Completion]]:
        """One list of completions per group, in the order of its seeds; `tell` hears how many are finished."""
