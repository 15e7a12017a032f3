"""Truncated importance sampling: tokens that one program sampled, and another learns from."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srpo_core.policy.losses.ratio import log_ratio, sequence_sums
from srpo_core.settings.update import ImportanceSampling, UpdateSettings


@dataclass(frozen=True)
class Correction:
    """Whether the trainer computes the old log-probabilities itself, and how it weighs what the sampler's differ by."""

    recomputes: bool
    importance_sampling: ImportanceSampling


def correction(settings: UpdateSettings, *, same_code: bool) -> Correction:
    """What the settings ask for where the engine computes as the trainer does (`same_code`), or does not."""
    kind: ImportanceSampling = "off" if same_code else "token"
    if settings.importance_sampling != "auto":
        kind = settings.importance_sampling
    untrusted = settings.old_logprobs == "auto" and (kind != "off" or not same_code)
    return Correction(
        recomputes=settings.old_logprobs == "recomputed" or untrusted,
        importance_sampling="off" if settings.old_logprobs == "sampler" else kind,
    )


def sampling_weights(
    kind: Literal["token", "sequence"], old_logprobs: Tensor, sampler_logprobs: Tensor, lengths: Tensor, *, cap: float
) -> Tensor:
    """What each token's loss is multiplied by, float (T,), without gradient: min(pi_old / pi_sampler, cap).

    pi_old is the trainer's account of the policy before the update, pi_sampler the engine's own account of what it
    drew from. `token` takes the ratio of each token, `sequence` that of its whole completion. Log-probabilities float
    (T,), lengths int64 (S,). Source: F. Yao and others, "Your Efficient RL Framework Secretly Brings You Off-Policy
    RL Training" (2025), https://fengyao.notion.site/off-policy-rl.
    """
    with torch.no_grad():
        difference = log_ratio(old_logprobs, sampler_logprobs)
        if kind == "sequence":
            difference = torch.repeat_interleave(sequence_sums(difference, lengths), lengths)
        return difference.exp().clamp(max=cap)
