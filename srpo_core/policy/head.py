"""Log-probability and entropy of sampled tokens, without a table of all tokens by the whole vocabulary.

The head is gone through in blocks of the vocabulary: each block's logits are used and forgotten, and a running maximum
and running sums take their place (an online log-sum-exp). The backward pass computes each block again, which costs one
more multiplication and leaves one block as the largest thing in memory; when everything fits into one block it is kept
instead. Blocks are of vocabulary first and of tokens second, so that the gradient of the head's weight, the largest
result, is written once. Sums are float32, float64 for a float64 policy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Elements of one block of logits. On a CPU 8 MiB of float32, measured best of 1 to 32: larger blocks leave the caches.
BLOCK_ELEMENTS = 1 << 21
CUDA_BLOCK_ELEMENTS = 1 << 27
# Fewer columns than this make thin multiplications: tokens are split instead.
LEAST_COLUMNS = 2048


@dataclass(frozen=True)
class Head:
    """What turns hidden states into the logits that tokens are drawn from.

    weight (V, H) and bias (V,) or None, any float dtype; unsampled int64 (U,): tokens that are never drawn. Products
    are taken of factors rounded to `factors` where that is given; their sums and results are float32 all the same.
    """

    weight: Tensor
    bias: Tensor | None
    temperature: float
    unsampled: Tensor
    factors: torch.dtype | None = None

    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """The matrix product of two matrices, float32, or float64 when both are."""
        if self.factors is not None and one.is_cuda:
            return torch.mm(one.to(self.factors), other.to(self.factors), out_dtype=torch.float32)
        dtype = torch.float64 if one.dtype == other.dtype == torch.float64 else torch.float32
        return torch.mm(one.to(dtype), other.to(dtype))


def token_statistics(
    hidden: Tensor, head: Head, predictors: Tensor, targets: Tensor, *, block_elements: int | None = None
) -> tuple[Tensor, Tensor]:
    """log pi(target) of each token, and the entropy in nats of each distribution it was drawn from; both (T,).

    hidden (N, H); predictors int64 (T,), which row of `hidden` predicts each token, several may share one; targets
    int64 (T,). float32, or float64 when `hidden` is; both carry gradients to `hidden` and to the head's parameters.
    """
    if block_elements is None:
        block_elements = CUDA_BLOCK_ELEMENTS if hidden.is_cuda else BLOCK_ELEMENTS
    rows, places = torch.unique(predictors, return_inverse=True)
    logprobs, entropy = _Statistics.apply(  # type: ignore[no-untyped-call]
        hidden.index_select(0, rows),
        head.weight,
        head.bias,
        _Blocks(head, places, targets, len(rows), block_elements),
    )
    return logprobs, entropy.index_select(0, places)


@dataclass(frozen=True)
class _Block:
    """`rows` of the distributions by `columns` of the vocabulary."""

    rows: slice
    columns: slice


@dataclass(frozen=True)
class _Blocks:
    """How T targets over R distributions are gone through; `places` int64 (T,) in 0..R-1."""

    head: Head
    places: Tensor
    targets: Tensor
    count: int
    elements: int

    def __iter__(self) -> Iterator[_Block]:
        vocabulary = len(self.head.weight)
        rows = min(self.count, max(1, self.elements // min(vocabulary, LEAST_COLUMNS)))
        columns = min(vocabulary, max(1, self.elements // max(rows, 1)))
        for column in range(0, vocabulary, columns):
            for row in range(0, self.count, rows):
                yield _Block(slice(row, min(row + rows, self.count)), slice(column, min(column + columns, vocabulary)))

    @property
    def single(self) -> bool:
        return self.count * len(self.head.weight) <= self.elements

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, block: _Block) -> Tensor:
        logits: Tensor = self.head.product(hidden[block.rows], weight[block.columns].t())
        if bias is not None:
            logits.add_(bias[block.columns])
        logits.div_(self.head.temperature)
        unsampled = self.unsampled(block)
        return logits.index_fill_(1, unsampled, -torch.inf) if len(unsampled) else logits

    def unsampled(self, block: _Block) -> Tensor:
        ids = self.head.unsampled
        inside: Tensor = ids[(ids >= block.columns.start) & (ids < block.columns.stop)] - block.columns.start
        return inside

    def targets_in(self, block: _Block) -> tuple[Tensor, Tensor, Tensor]:
        """Which targets lie in the block, and the row and the column of each inside it."""
        inside = (self.targets >= block.columns.start) & (self.targets < block.columns.stop)
        inside &= (self.places >= block.rows.start) & (self.places < block.rows.stop)
        chosen = inside.nonzero().squeeze(1)
        return chosen, self.places[chosen] - block.rows.start, self.targets[chosen] - block.columns.start


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, blocks: _Blocks) -> tuple[Tensor, ...]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        maximum = hidden.new_full((blocks.count,), torch.finfo(dtype).min, dtype=dtype)  # finite: -inf less -inf is NaN
        total, weighted = torch.zeros_like(maximum), torch.zeros_like(maximum)  # of exp(z - max), of z exp(z - max)
        chosen_logits = hidden.new_empty(len(blocks.targets), dtype=dtype)
        kept = None
        for block in blocks:
            logits = blocks.logits(hidden, weight, bias, block)
            chosen, row, column = blocks.targets_in(block)
            chosen_logits[chosen] = logits[row, column]
            previous = maximum[block.rows]
            largest = torch.maximum(previous, logits.amax(1))
            shrunk = torch.exp(previous - largest)
            exponentials = torch.exp(logits - largest[:, None])
            kept = logits.clone() if blocks.single and any(ctx.needs_input_grad) else None
            finite = logits.index_fill_(1, blocks.unsampled(block), 0.0)  # 0 * -inf would be NaN
            total[block.rows] = total[block.rows] * shrunk + exponentials.sum(1)
            weighted[block.rows] = weighted[block.rows] * shrunk + torch.linalg.vecdot(exponentials, finite)
            maximum[block.rows] = largest
        normalizer = maximum + total.log()
        entropy = normalizer - weighted / total
        ctx.save_for_backward(hidden, weight, bias, normalizer, entropy, kept)
        ctx.blocks = blocks
        ctx.set_materialize_grads(False)
        return chosen_logits - normalizer[blocks.places], entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        for_logprobs, for_entropy = gradients
        hidden, weight, bias, normalizer, entropy, kept = ctx.saved_tensors
        blocks: _Blocks = ctx.blocks
        product = blocks.head.product
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        to_hidden = torch.zeros_like(hidden, dtype=normalizer.dtype) if needs_hidden else None
        to_weight = torch.zeros_like(weight) if needs_weight else None
        to_bias = torch.zeros_like(bias) if needs_bias else None
        share = torch.zeros_like(normalizer)  # of the gradients of a distribution's targets
        if for_logprobs is not None:
            share.index_add_(0, blocks.places, for_logprobs)
        for block in blocks:
            logits = kept if kept is not None else blocks.logits(hidden, weight, bias, block)
            all_logprobs = logits - normalizer[block.rows, None]
            factor = share[block.rows, None]
            to_logits = all_logprobs.exp()
            if for_entropy is not None:  # dH/dz_v = -p_v (log p_v + H)
                finite = all_logprobs.index_fill_(1, blocks.unsampled(block), 0.0)
                factor = factor + for_entropy[block.rows, None] * (finite + entropy[block.rows, None])
            to_logits.mul_(factor).neg_()
            if for_logprobs is not None:
                chosen, row, column = blocks.targets_in(block)
                to_logits.index_put_((row, column), for_logprobs[chosen], accumulate=True)
            to_logits /= blocks.head.temperature
            if to_hidden is not None:
                to_hidden[block.rows] += product(to_logits, weight[block.columns])
            if to_weight is not None:
                to_weight[block.columns] += product(to_logits.t(), hidden[block.rows])
            if to_bias is not None:
                to_bias[block.columns] += to_logits.sum(0)
        return None if to_hidden is None else to_hidden.to(hidden.dtype), to_weight, to_bias, None
