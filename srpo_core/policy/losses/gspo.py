"""GSPO: the clipped loss with one ratio for a whole completion."""

import torch
from torch import Tensor

from srpo_core.policy.losses.clip import TokenLosses, clipped_losses
from srpo_core.policy.losses.ratio import log_ratio, sequence_means


def gspo_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, lengths: Tensor, *, clip_low: float, clip_high: float
) -> TokenLosses:
    """-min(s * A, clip(s) * A), where s = exp(mean over the completion's tokens of log pi - log pi_old).

    Every token carries its completion's loss, so that a mean over sequences of means over tokens is the paper's mean
    over completions. logprobs, old_logprobs, advantages float (T,); lengths int64 (S,). Source: arXiv 2507.18071
    (GSPO), section 4.1.
    """
    ratio = sequence_means(log_ratio(logprobs, old_logprobs), lengths).exp()  # (S,)
    return clipped_losses(torch.repeat_interleave(ratio, lengths), advantages, clip_low=clip_low, clip_high=clip_high)
