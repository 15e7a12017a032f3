"""What an update reports of itself, named as TRL names it."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from srpo_core.policy.advantages import REWARD_TOLERANCE
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.losses.objective import TokenReport
from srpo_core.policy.ranks.processes import Ranks

_DIFFERENCE = "sampling/sampling_logp_difference"
_RATIO = "sampling/importance_sampling_ratio"

# Every name that totals may have, in an order that all processes share.
_SUMS = (
    "loss",
    "entropy",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "sampling/approximate_kl",
    "kl",
    f"{_DIFFERENCE}/mean",
    f"{_RATIO}/mean",
)
_MINIMA = ("clip_ratio/low_min", f"{_RATIO}/min")
_MAXIMA = ("clip_ratio/high_max", f"{_DIFFERENCE}/max", f"{_RATIO}/max")


@dataclass
class UpdateTotals:
    """Of all tokens that went through the model: their count, sums, least and largest values, by the metric's name.

    Totals of several processes go together by adding `tokens`, `first_tokens` and `sums`, and by the extremes of
    `minima` and `maxima`. `gradient_norms` has one entry per optimizer step.
    """

    tokens: int = 0
    first_tokens: int = 0  # of the first optimizer step, before which the policy is the one that was loaded
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    minima: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)
    gradient_norms: list[float] = field(default_factory=list)

    def add(self, report: TokenReport) -> None:
        """Count one micro-batch. Its scalars leave the device together."""
        if not len(report.losses):
            return
        first = not self.gradient_norms
        self.tokens += len(report.losses)
        self.first_tokens += len(report.losses) if first else 0
        sums = {
            "loss": report.losses,
            "entropy": report.entropy,
            "clip_ratio/low_mean": report.low,
            "clip_ratio/high_mean": report.high,
            "sampling/approximate_kl": report.approximate_kl,
        }
        minima = {"clip_ratio/low_min": report.low_shares}
        maxima = {"clip_ratio/high_max": report.high_shares}
        if report.kl is not None:
            sums["kl"] = report.kl
        if first:
            sums[f"{_DIFFERENCE}/mean"] = maxima[f"{_DIFFERENCE}/max"] = report.difference
        if report.sampling_weights is not None:
            sums[f"{_RATIO}/mean"] = minima[f"{_RATIO}/min"] = maxima[f"{_RATIO}/max"] = report.sampling_weights
        scalars = [value.sum(dtype=torch.float32) for value in sums.values()]
        scalars += [value.amin() for value in minima.values()] + [value.amax() for value in maxima.values()]
        told = iter(torch.stack(scalars).tolist())
        for name in sums:
            self.sums[name] += next(told)
        for name in minima:
            self.minima[name] = min(self.minima.get(name, math.inf), next(told))
        for name in maxima:
            self.maxima[name] = max(self.maxima.get(name, -math.inf), next(told))

    def add_up(self, ranks: Ranks) -> None:
        """Count what every process counted; one that computed nothing has no names of its own.

        Gradient norms are those of the whole gradient in each already.
        """
        tokens, first = ranks.sums([self.tokens, self.first_tokens])
        self.tokens, self.first_tokens = int(tokens), int(first)
        for names, neutral, kept in (
            (_SUMS, 0.0, self.sums),
            (_MINIMA, math.inf, self.minima),
            (_MAXIMA, -math.inf, self.maxima),
        ):
            sign = -1.0 if kept is self.minima else 1.0
            values = [sign * kept.get(name, neutral) for name in names]
            together = ranks.sums(values) if kept is self.sums else ranks.maxima(values)
            there = ranks.maxima([float(name in kept) for name in names])
            kept.update({n: sign * v for n, v, known in zip(names, together, there, strict=True) if known})


def zero_variance_share(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> float:
    """Share of groups whose graded values are all equal within the tolerance; NaN when nothing was graded."""
    graded = ~np.isnan(values)
    spans = [np.ptp(values[graded & (groups == group)]) for group in np.unique(groups[graded])]
    return float(np.mean([span <= REWARD_TOLERANCE for span in spans])) if spans else float("nan")


def update_metrics(batch: RolloutBatch, learned: npt.NDArray[np.bool_], totals: UpdateTotals) -> dict[str, float]:
    """The figures of one update; means over tokens are over those that went through the model; of no rollouts, NaN.

    `learned` bool (N,) says which rollouts did. `sampling/sampling_logp_difference` compares the sampler's
    log-probabilities with the trainer's before the first optimizer step: on-policy it shows whether both compute the
    same policy. `kl` and `sampling/importance_sampling_ratio` are there when the objective has them.
    """
    sums, steps = defaultdict(float, totals.sums), len(totals.gradient_norms)
    means = {name: sums[name] / max(totals.tokens, 1) for name in sums if name not in ("loss", f"{_DIFFERENCE}/mean")}
    low, high = sums["clip_ratio/low_mean"], sums["clip_ratio/high_mean"]
    return {
        "loss": sums["loss"] / max(steps, 1),
        **_batch_metrics(batch, learned),
        "entropy": 0.0,
        "clip_ratio/low_mean": 0.0,
        "clip_ratio/low_min": 0.0,
        "clip_ratio/high_mean": 0.0,
        "clip_ratio/high_max": 0.0,
        "sampling/approximate_kl": 0.0,
        f"{_DIFFERENCE}/max": 0.0,
        **means,
        **totals.minima,
        **totals.maxima,
        "clip_ratio/region_mean": (low + high) / max(totals.tokens, 1),
        f"{_DIFFERENCE}/mean": sums[f"{_DIFFERENCE}/mean"] / max(totals.first_tokens, 1),
        "grad_norm": float(np.mean(totals.gradient_norms)) if steps else 0.0,
        "optimizer_steps": float(steps),
    }


def _batch_metrics(batch: RolloutBatch, learned: npt.NDArray[np.bool_]) -> dict[str, float]:
    lengths, ended = batch.completion_lengths, batch.completion_lengths[~batch.truncated]
    graded = batch.rewards[~np.isnan(batch.rewards)]
    return {
        "reward": _mean(graded),
        "reward_std": float(graded.std()) if len(graded) else float("nan"),
        "frac_reward_zero_std": zero_variance_share(batch.rewards, batch.groups),
        "frac_ungraded": 1 - _mean(~np.isnan(batch.rewards)),
        "frac_tokens_skipped": float(lengths[~learned].sum() / max(int(lengths.sum()), 1)),
        "num_tokens": float(lengths.sum()),
        "completions/mean_length": _mean(lengths),
        "completions/min_length": _least(lengths),
        "completions/max_length": -_least(-lengths),
        "completions/clipped_ratio": _mean(batch.truncated),
        "completions/mean_terminated_length": _mean(ended),
        "completions/min_terminated_length": _least(ended),
        "completions/max_terminated_length": -_least(-ended),
    }


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _least(values: npt.NDArray[Any]) -> float:
    return float(values.min()) if len(values) else float("nan")
