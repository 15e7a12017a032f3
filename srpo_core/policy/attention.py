"""Attention of packed rollouts: everything else of a model sees each distinct token once, attention sees rollouts.

Keys, queries and values are gathered from the packed tokens into rollouts, attended, and what the attention gives is
put back to the tokens that own it. On a GPU the rollouts lie one after another (variable-length flash attention, no
padding); elsewhere they are rows of a grid, padded on the right, where a causal attention never looks.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.packing import PackedRollouts

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
    attended = _grid_attention(query, key, value, packed, scale)
    return attended[None], None


def _grid_attention(query: Tensor, key: Tensor, value: Tensor, packed: PackedRollouts, scale: float) -> Tensor:
    rows, width = packed.grid.shape
    groups = query.shape[1] // key.shape[1]

    def rollouts(states: Tensor) -> Tensor:  # (1, heads, N, D) -> (rows, heads, width, D)
        flat = states[0].transpose(0, 1).flatten(1)
        return gather(flat, packed).view(rows, width, states.shape[1], -1).transpose(1, 2)

    attended = scaled_dot_product_attention(
        rollouts(query),
        rollouts(key).repeat_interleave(groups, 1) if groups > 1 else rollouts(key),
        rollouts(value).repeat_interleave(groups, 1) if groups > 1 else rollouts(value),
        is_causal=True,
        scale=scale,
    )
    return attended.transpose(1, 2).reshape(rows * width, *attended.shape[1::2]).index_select(0, packed.places)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, packed: PackedRollouts) -> Tensor:
        ctx.packed = packed
        return states.index_select(0, packed.grid.flatten())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        packed: PackedRollouts = ctx.packed
        states = gradient.index_select(0, packed.places)
        if len(packed.shared_places):
            states.index_add_(0, packed.grid.flatten()[packed.shared_places], gradient[packed.shared_places])
        return states, None


def gather(states: Tensor, packed: PackedRollouts) -> Tensor:
    """The states (N, F) of packed tokens at every place of the grid, (rows * width, F)."""
    gathered: Tensor = _Gather.apply(states, packed)  # type: ignore[no-untyped-call]
    return gathered


AttentionInterface.register(NAME, rollout_attention)
