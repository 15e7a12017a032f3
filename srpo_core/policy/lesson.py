"""One batch as the objective sees it: what its tokens are compared with, and how much they count."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import NotFiniteError
from srpo_core.policy.losses.objective import Tokens

Rows = npt.NDArray[np.int64]
Scores = Sequence[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Lesson:
    """N rollouts with what each of them is worth.

    advantages float64 (N,); learned bool (N,), which of them go through the model. `old` and `reference`: float32
    log-probabilities, one per completion token; without `old`, the policy that learns is the one before the update.
    """

    batch: RolloutBatch
    advantages: npt.NDArray[np.float64]
    learned: npt.NDArray[np.bool_]
    old: Scores | None
    reference: Scores | None

    def tokens(self, rows: Rows, weights: npt.NDArray[np.float64], logprobs: Tensor, entropy: Tensor) -> Tokens:
        """The tokens of `rows`, whose statistics (T,) come from the model; `weights` float64 (N,) of each token."""
        lengths = self.batch.completion_lengths[rows]

        def gathered(scores: Scores) -> Tensor:
            return torch.from_numpy(np.concatenate([scores[row] for row in rows])).to(logprobs.device)

        def repeated(values: npt.NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(np.repeat(values[rows], lengths).astype(np.float32)).to(logprobs.device)

        return Tokens(
            logprobs=logprobs,
            entropy=entropy,
            old_logprobs=logprobs.detach() if self.old is None else gathered(self.old),
            sampler_logprobs=gathered(self.batch.logprobs),
            reference_logprobs=None if self.reference is None else gathered(self.reference),
            advantages=repeated(self.advantages),
            weights=repeated(weights),
            lengths=torch.from_numpy(lengths).to(logprobs.device),
        )


def refuse_not_finite(batch: RolloutBatch) -> None:
    """Raise NotFiniteError for rollouts whose recorded log-probabilities cannot be: no token has them."""
    bad = {row: int((~np.isfinite(values)).sum()) for row, values in enumerate(batch.logprobs)}
    if any(bad.values()):
        raise NotFiniteError({"sampler's logprobs": sum(bad.values())}, [row for row, count in bad.items() if count])
