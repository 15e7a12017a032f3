"""CISPO: the clipped importance ratio weighs each token's log-probability, so that no token's gradient is cut."""

from torch import Tensor

from srpo_core.policy.losses.clip import TokenLosses
from srpo_core.policy.losses.ratio import log_ratio


def cispo_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> TokenLosses:
    """-clip(rho, 1 - clip_low, 1 + clip_high) * A * log pi, no gradient through the clipped rho; all float (T,).

    `clip_low` = 1 sets no lower bound, as the paper trained. Source: arXiv 2506.13585 (MiniMax-M1), section 3.1.
    """
    ratio = log_ratio(logprobs, old_logprobs).detach().exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    # A token that the policy calls impossible has no gradient to weigh: 0 * -inf would be NaN.
    losses = -(weight * logprobs.clamp(min=logprobs.new_tensor(-1e4)))
    low = (ratio < 1 - clip_low) & (advantages < 0)
    high = (ratio > 1 + clip_high) & (advantages > 0)
    return TokenLosses(losses, low, high)
