"""The whole loss of a micro-batch: policy term, sampling correction, divergence and entropy, and what they report."""

from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_core.policy.losses.cispo import cispo_losses
from srpo_core.policy.losses.clip import TokenLosses, clip_losses
from srpo_core.policy.losses.gspo import gspo_losses
from srpo_core.policy.losses.kl import kl_estimates, kl_losses
from srpo_core.policy.losses.ratio import log_ratio, sequence_means
from srpo_core.policy.losses.sampling import sampling_weights
from srpo_core.settings.update import ImportanceSampling, UpdateSettings


@dataclass(frozen=True)
class Tokens:
    """The tokens of S whole completions, flat, float (T,) but for `lengths` int64 (S,).

    `logprobs` carries the gradient, and `entropy` (nats) too where there is a bonus. `old_logprobs` is the policy that
    the ratio divides by, `sampler_logprobs` what the engine recorded, `reference_logprobs` the reference policy's where
    there is a divergence. `weights` is each token's share of the optimizer step's mean.
    """

    logprobs: Tensor
    entropy: Tensor
    old_logprobs: Tensor
    sampler_logprobs: Tensor
    reference_logprobs: Tensor | None
    advantages: Tensor
    weights: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class TokenReport:
    """What the loss says of each token, detached, (T,), and the shares of each completion's tokens, (S,)."""

    losses: Tensor  # share of the loss
    low: Tensor
    high: Tensor
    low_shares: Tensor
    high_shares: Tensor
    entropy: Tensor
    kl: Tensor | None
    approximate_kl: Tensor  # k3 of the sampling policy to this one
    difference: Tensor  # |log pi - the sampler's|
    sampling_weights: Tensor | None


def objective(
    tokens: Tokens, settings: UpdateSettings, importance_sampling: ImportanceSampling
) -> tuple[Tensor, TokenReport]:
    """The micro-batch's share of the optimizer step's loss, a scalar with the gradient, and its report.

    sum over tokens of weight * (sampling weight * policy loss + kl.coefficient * KL - entropy_coefficient * entropy)
    """
    policy = _policy_losses(tokens, settings)
    losses, sampling, kl = policy.losses, None, None
    if importance_sampling != "off":
        given = tokens.old_logprobs, tokens.sampler_logprobs, tokens.lengths
        sampling = sampling_weights(importance_sampling, *given, cap=settings.importance_sampling_cap)
        losses = losses * sampling
    if tokens.reference_logprobs is not None:
        kind, reference = settings.kl.estimator, tokens.reference_logprobs
        losses = losses + settings.kl.coefficient * kl_losses(kind, tokens.logprobs, tokens.old_logprobs, reference)
        kl = kl_estimates(kind, tokens.logprobs.detach(), reference)
    if settings.entropy_coefficient:
        losses = losses - settings.entropy_coefficient * tokens.entropy
    weighted = losses * tokens.weights
    return weighted.sum(), _report(tokens, policy, weighted.detach(), sampling, kl)


def _policy_losses(tokens: Tokens, settings: UpdateSettings) -> TokenLosses:
    given = (tokens.logprobs, tokens.old_logprobs, tokens.advantages)
    low, high = settings.clip_low, settings.clip_high
    if settings.loss == "gspo":
        return gspo_losses(*given, tokens.lengths, clip_low=low, clip_high=high)
    if settings.loss == "cispo":
        return cispo_losses(*given, clip_low=low, clip_high=high)
    return clip_losses(*given, clip_low=low, clip_high=high, dual_clip=settings.dual_clip)


@torch.no_grad()
def _report(
    tokens: Tokens, policy: TokenLosses, weighted: Tensor, sampling: Tensor | None, kl: Tensor | None
) -> TokenReport:
    change = log_ratio(tokens.logprobs, tokens.sampler_logprobs)
    return TokenReport(
        losses=weighted,
        low=policy.low,
        high=policy.high,
        low_shares=sequence_means(policy.low.to(weighted.dtype), tokens.lengths),
        high_shares=sequence_means(policy.high.to(weighted.dtype), tokens.lengths),
        entropy=tokens.entropy.detach(),
        kl=kl,
        approximate_kl=change.exp() - 1 - change,
        difference=(tokens.logprobs - tokens.sampler_logprobs).abs(),
        sampling_weights=sampling,
    )
