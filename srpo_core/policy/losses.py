"""The policy loss, as a pure function of log-probabilities and advantages."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossSums:
    """Sums over the tokens of one micro-batch; divided by the optimizer step's tokens they are its means.

    `loss` carries the gradient; the rest is for the metrics, `largest_difference` a maximum over tokens of
    |logprob - old|. Scalars.
    """

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    approximate_kl: Tensor
    largest_difference: Tensor


def clipped_loss_sums(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> LossSums:
    """-sum over tokens of min(rho * A, clip(rho, 1 - clip_low, 1 + clip_high) * A), rho = exp(logprob - old).

    logprobs, old_logprobs, advantages float32 (T,), one entry per completion token. The caller divides by the
    number of tokens of the whole optimizer step, so that the gradient does not depend on the micro-batches.
    Source: arXiv 2504.14286 (token-level loss, no KL term); the asymmetric clip range is arXiv 2503.14476 (DAPO).
    """
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    with torch.no_grad():
        clipped_low = ((ratio < 1 - clip_low) & (advantages < 0)).sum()
        clipped_high = ((ratio > 1 + clip_high) & (advantages > 0)).sum()
        approximate_kl = (ratio - 1 - log_ratio).sum()  # k3 of the sampling policy to this one
        largest_difference = log_ratio.abs().max()
    return LossSums(-objective.sum(), clipped_low, clipped_high, approximate_kl, largest_difference)
