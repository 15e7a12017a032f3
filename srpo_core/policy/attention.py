"""Attention of packed rollouts: everything else of a model sees each distinct token once, attention sees rollouts.

Keys, queries and values are gathered from the packed tokens into rollouts, attended, and what the attention gives is
put back to the tokens that own it. On a GPU rollouts lie one after another, without padding, in one call of PyTorch's
variable-length flash attention; elsewhere those alike in length are a grid, padded on the right, where a causal
attention never looks, and each grid is a call.
"""

import math
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.packing import PackedRollouts

try:  # torch 2.10 and later
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]

NAME = "srpo_rollouts"


def rollout_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedRollouts,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside every rollout of `packed`, in transformers' form.

    query (1, heads, N, D), key and value (1, fewer or equal heads, N, D) over the N packed tokens; gives
    (1, N, heads, D). Raises PolicyError for what a model asks of its attention beyond that.
    """
    for name in ("sliding_window", "softcap", "s_aux"):
        if options.get(name) is not None:
            raise PolicyError(f"a policy whose attention needs {name} is not supported: use one with full attention")
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    heads, key_heads, width = query.shape[1], key.shape[1], query.shape[-1]
    # One gather for all three: (N, heads + 2 * key heads, D) at every place of the layout.
    states = gather(torch.cat([query, key, value], 1)[0].transpose(0, 1).flatten(1), packed)
    states = states.unflatten(1, (heads + 2 * key_heads, width))
    parts = states.split([heads, key_heads, key_heads], 1)
    if varlen_attn is not None and states.is_cuda and all(rows == 1 for rows, _ in packed.spans):
        attended = _attend_without_padding(parts[0], parts[1], parts[2], packed, scale)
    else:
        sizes = [rows * width for rows, width in packed.spans]
        grids = zip(packed.spans, *(part.split(sizes) for part in parts), strict=True)
        attended = torch.cat([_attend_grid(q, k, v, rows, scale) for (rows, _), q, k, v in grids])
    return attended.index_select(0, packed.places)[None], None


def _attend_grid(query: Tensor, key: Tensor, value: Tensor, rows: int, scale: float) -> Tensor:
    """Attention of `rows` rollouts of one width; each (rows * width, heads, D), and the result as `query`."""
    groups = query.shape[1] // key.shape[1]

    def grid(states: Tensor) -> Tensor:  # (rows, heads, width, D)
        laid: Tensor = states.unflatten(0, (rows, -1)).transpose(1, 2)
        return laid

    attended = scaled_dot_product_attention(
        grid(query),
        grid(key.repeat_interleave(groups, 1)),
        grid(value.repeat_interleave(groups, 1)),
        is_causal=True,
        scale=scale,
    )
    return attended.transpose(1, 2).flatten(0, 1)


def _attend_without_padding(query: Tensor, key: Tensor, value: Tensor, packed: PackedRollouts, scale: float) -> Tensor:
    """Attention of rollouts that lie one after another; each (P, heads, D), and the result as `query`."""
    lengths = [width for _, width in packed.spans]
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=query.device)
    # The kernel knows 16-bit floats alone: what autocast has not lowered yet is lowered here, as it would there.
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    attended = varlen_attn(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        ends,
        ends,
        max(lengths),
        max(lengths),
        scale=scale,
        window_size=(-1, 0),  # causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)  # a pair only when asked for
    return attended


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, packed: PackedRollouts) -> Tensor:
        ctx.packed = packed
        return states.index_select(0, packed.layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        packed: PackedRollouts = ctx.packed
        states = gradient.index_select(0, packed.places)
        if len(packed.shared_places):
            states.index_add_(0, packed.layout[packed.shared_places], gradient[packed.shared_places])
        return states, None


def gather(states: Tensor, packed: PackedRollouts) -> Tensor:
    """The states (N, F) of packed tokens at every place of the layout, (P, F)."""
    gathered: Tensor = _Gather.apply(states, packed)  # type: ignore[no-untyped-call]
    return gathered


AttentionInterface.register(NAME, rollout_attention)
