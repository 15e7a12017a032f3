"""What an update reports of itself, named as TRL names it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from srpo_core.policy.advantages import REWARD_TOLERANCE
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.losses import LossSums
from srpo_core.policy.ranks.processes import Ranks


@dataclass
class UpdateTotals:
    """Sums over the tokens that went through the model, and one entry per optimizer step."""

    tokens: int = 0
    loss: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    approximate_kl: float = 0.0
    entropy: float = 0.0
    largest_difference: float = 0.0
    gradient_norms: list[float] = field(default_factory=list)

    def add(self, sums: LossSums, entropy: Tensor, *, loss_tokens: int) -> None:
        """Count one micro-batch: `entropy` float32 (T,); its loss is a share of a mean over `loss_tokens`."""
        self.tokens += len(entropy)
        self.loss += sums.loss.item() / loss_tokens
        self.clipped_low += sums.clipped_low.item()
        self.clipped_high += sums.clipped_high.item()
        self.approximate_kl += sums.approximate_kl.item()
        self.entropy += entropy.sum().item()
        if not self.gradient_norms:  # before the first optimizer step the policy is the one that was loaded
            self.largest_difference = max(self.largest_difference, sums.largest_difference.item())

    def add_up(self, ranks: Ranks) -> None:
        """Count what every process counted. Gradient norms are those of the whole gradient in each already."""
        sums = [self.tokens, self.loss, self.clipped_low, self.clipped_high, self.approximate_kl, self.entropy]
        tokens, self.loss, self.clipped_low, self.clipped_high, self.approximate_kl, self.entropy = ranks.sums(sums)
        self.tokens = int(tokens)
        (self.largest_difference,) = ranks.maxima([self.largest_difference])


def zero_variance_share(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> float:
    """Share of groups whose graded values are all equal within the tolerance; NaN when nothing was graded."""
    graded = ~np.isnan(values)
    spans = [np.ptp(values[graded & (groups == group)]) for group in np.unique(groups[graded])]
    return float(np.mean([span <= REWARD_TOLERANCE for span in spans])) if spans else float("nan")


def update_metrics(batch: RolloutBatch, advantages: npt.NDArray[np.float64], totals: UpdateTotals) -> dict[str, float]:
    """The figures of one update; means over tokens are over those that went through the model; of no rollouts, NaN.

    `sampling/sampling_logp_difference/max` compares the sampler's log-probabilities with the trainer's before the
    first optimizer step: on-policy it shows whether both compute the same policy.
    """
    lengths = batch.completion_lengths
    graded = batch.rewards[~np.isnan(batch.rewards)]
    trained = max(totals.tokens, 1)
    tokens = max(int(lengths.sum()), 1)
    return {
        "loss": totals.loss / max(len(totals.gradient_norms), 1),
        "reward": _mean(graded),
        "reward_std": float(graded.std()) if len(graded) else float("nan"),
        "frac_reward_zero_std": zero_variance_share(batch.rewards, batch.groups),
        "frac_ungraded": 1 - _mean(~np.isnan(batch.rewards)),
        "frac_tokens_skipped": float(lengths[advantages == 0.0].sum() / tokens),
        "num_tokens": float(lengths.sum()),
        "completions/mean_length": _mean(lengths),
        "completions/clipped_ratio": _mean(batch.truncated),
        "entropy": totals.entropy / trained,
        "clip_ratio/low_mean": totals.clipped_low / trained,
        "clip_ratio/high_mean": totals.clipped_high / trained,
        "clip_ratio/region_mean": (totals.clipped_low + totals.clipped_high) / trained,
        "sampling/approximate_kl": totals.approximate_kl / trained,
        "sampling/sampling_logp_difference/max": totals.largest_difference,
        "grad_norm": float(np.mean(totals.gradient_norms)) if totals.gradient_norms else 0.0,
        "optimizer_steps": float(len(totals.gradient_norms)),
    }


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
