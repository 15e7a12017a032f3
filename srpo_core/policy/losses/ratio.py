"""The importance ratio, and sums over the completions of a micro-batch."""

import torch
from torch import Tensor

# exp(20) is 5e8: no clip range and no gradient norm lets more through, and in float32 exp overflows at 88, of which
# clipping would make 0 * inf = NaN in the gradient. Beyond the bound a token's gradient is 0.
LARGEST_LOG_RATIO = 20.0


def log_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """log pi - log pi_old, float (T,), kept within +-LARGEST_LOG_RATIO; a log-probability of -inf is at its end."""
    return (logprobs - old_logprobs).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def sequence_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum of `values` float (T,) over each completion, float (S,); differentiable. `lengths` int64 (S,)."""
    places = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    return values.new_zeros(len(lengths)).index_add(0, places, values)


def sequence_means(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean of `values` float (T,) over each completion, float (S,); 0 for an empty one. `lengths` int64 (S,)."""
    return sequence_sums(values, lengths) / lengths.clamp(min=1)
