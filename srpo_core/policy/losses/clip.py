"""PPO's clipped loss, token by token, with a clip range of two sides and an optional dual clip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_core.policy.losses.ratio import log_ratio


@dataclass(frozen=True)
class TokenLosses:
    """Per token, (T,): `losses` float with the gradient; `low` and `high` bool, where the clip range cut it."""

    losses: Tensor
    low: Tensor
    high: Tensor


def clip_losses(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> TokenLosses:
    """-min(rho * A, clip(rho, 1 - clip_low, 1 + clip_high) * A) with rho = pi / pi_old; all float (T,).

    With `dual_clip` c > 1, a token of negative advantage loses at most -c * A, however far its ratio has risen.
    Sources: arXiv 1707.06347 (PPO); two clip bounds arXiv 2503.14476 (DAPO); dual clip arXiv 1912.09729, section 3.3.
    """
    return clipped_losses(
        log_ratio(logprobs, old_logprobs).exp(), advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )


def clipped_losses(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> TokenLosses:
    """The clipped loss of any `ratio`, float (T,), beside its `advantages`, float (T,)."""
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    low = (ratio < 1 - clip_low) & (advantages < 0)
    high = (ratio > 1 + clip_high) & (advantages > 0)
    return TokenLosses(-objective, low, high)
