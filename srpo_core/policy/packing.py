"""Which rollouts share a micro-batch, and how they lie in it: every distinct token once.

A token's hidden state depends on what stands before it and on nothing else. So where rollouts begin with the same
tokens, as those of one prompt do, they are the same computation: a micro-batch is the forest of its rollouts'
prefixes, one packed token per node. The last token of a completion predicts nothing and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

# Halvings of the search for the smallest cost of the dearest micro-batch: a thousandth of a batch is balance enough.
BALANCE_ROUNDS = 16


@dataclass(frozen=True)
class PackedRollouts:
    """N packed tokens of R rollouts with T completion tokens in all; every tensor int64.

    tokens, positions (N,): a token and its place in its rollout. spans: (rows, width) of each grid of rollouts that are
    alike in length; layout (P,): the packed token at each place of those grids, one after another, 0 beyond a
    rollout's end. places (N,): the place in the layout of each packed token, in the first rollout that has it;
    shared_places (S,): its further places. predictors, targets (T,): for every completion token, in the order of the
    rollouts given, the packed token that predicts it and the token itself.
    """

    tokens: Tensor
    positions: Tensor
    spans: tuple[tuple[int, int], ...]
    layout: Tensor
    places: Tensor
    shared_places: Tensor
    predictors: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "PackedRollouts":
        """The same on `device`."""
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def model_inputs(prompts: Sequence[Ids], completions: Sequence[Ids]) -> list[Ids]:
    """What a model must read to predict each completion: its prompt and all its tokens but the last."""
    return [np.concatenate([p, c[:-1]]) for p, c in zip(prompts, completions, strict=True)]


def pack(prompts: Sequence[Ids], completions: Sequence[Ids], *, padding: float) -> PackedRollouts:
    """The forest of prefixes of the rollouts given; no prompt may be empty.

    A span's longest rollout is at most `padding` times longer than its shortest; with 0 every rollout is a span of its
    own and nothing is padded.
    """
    inputs = model_inputs(prompts, completions)
    nodes, count = prefix_forest(inputs)
    tokens, positions = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    for members, ids in zip(nodes, inputs, strict=True):
        tokens[members], positions[members] = ids, np.arange(len(ids))
    grids, inside = [], []
    for rows in _alike_in_length([len(ids) for ids in inputs], padding):
        grid = np.full((len(rows), len(inputs[rows[-1]])), -1, dtype=np.int64)
        for line, row in zip(grid, rows, strict=True):
            line[: len(nodes[row])] = nodes[row]
        grids.append(grid)
        inside.append(grid.ravel() >= 0)
    layout = np.concatenate([grid.ravel() for grid in grids])
    used = np.flatnonzero(np.concatenate(inside))
    _, first = np.unique(layout[used], return_index=True)
    rollouts = zip(nodes, prompts, completions, strict=True)
    arrays = {
        "tokens": tokens,
        "positions": positions,
        "layout": np.maximum(layout, 0),
        "places": used[first],
        "shared_places": np.delete(used, first),
        "predictors": np.concatenate([n[len(p) - 1 : len(p) - 1 + len(c)] for n, p, c in rollouts]),
        "targets": np.concatenate(completions).astype(np.int64),
    }
    return PackedRollouts(
        spans=tuple((len(grid), grid.shape[1]) for grid in grids),
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
    )


def _alike_in_length(lengths: Sequence[int], padding: float) -> list[list[int]]:
    """Places in order of their length, cut where one is more than `padding` times longer than the first of its part."""
    parts: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not parts or not padding or lengths[place] > (1 + padding) * lengths[parts[-1][0]]:
            parts.append([])
        parts[-1].append(place)
    return parts


def prefix_forest(sequences: Sequence[Ids]) -> tuple[list[Rows], int]:
    """For each sequence the node of each of its prefixes, int64; and how many nodes there are."""
    nodes: list[Rows] = [np.empty(0, dtype=np.int64)] * len(sequences)
    order = _lexicographic(sequences)
    count, previous = 0, np.empty(0, dtype=np.int64)
    for row, shared in zip(order, _shared_with_neighbour(sequences, order), strict=True):
        fresh = np.arange(count, count + len(sequences[row]) - shared)
        nodes[row] = previous = np.concatenate([previous[:shared], fresh])
        count += len(fresh)
    return nodes, count


def micro_batches(
    sequences: Sequence[Ids], token_budget: int, *, attention_cost: float, multiple_of: int = 1
) -> list[Rows]:
    """Places 0..N-1 of `sequences` in micro-batches of at most `token_budget` distinct tokens, alike in cost.

    As few as the budget allows, neighbours in lexicographic order together since they share their beginnings, and cut
    so that the dearest costs least. A token costs 1, and a sequence of L tokens `attention_cost` * L * L more. One
    longer than the budget gets a micro-batch of its own. `multiple_of` rounds up how many there may be, so that so
    many processes get as many each. The same sequences are always packed the same way.
    """
    order = _lexicographic(sequences)
    shared = _shared_with_neighbour(sequences, order)
    lengths = [len(sequences[row]) for row in order]
    attention = [attention_cost * length * length for length in lengths]

    def cuts(cost_limit: float) -> list[int]:
        """Where micro-batches begin when each is filled up to the budget and to `cost_limit`."""
        starts, tokens, cost = [0], 0, 0.0
        for n, (length, more) in enumerate(zip(lengths, attention, strict=True)):
            fresh = length - shared[n]
            if n > starts[-1] and (tokens + fresh > token_budget or cost + fresh + more > cost_limit):
                starts.append(n)
            if n == starts[-1]:
                fresh, tokens, cost = length, 0, 0.0
            tokens, cost = tokens + fresh, cost + fresh + more
        return starts

    if not order:
        return []
    most = -(-len(cuts(float("inf"))) // multiple_of) * multiple_of
    low, high = 0.0, float(sum(lengths) + sum(attention))
    for _ in range(BALANCE_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if len(cuts(middle)) <= most else (middle, high)
    return [np.array(part, dtype=np.int64) for part in np.split(np.array(order), cuts(high)[1:])]


def _lexicographic(sequences: Sequence[Ids]) -> list[int]:
    """Places of the sequences in lexicographic order, equal ones in the order given."""
    keys = [sequence.astype(">i4").tobytes() for sequence in sequences]
    return sorted(range(len(sequences)), key=keys.__getitem__)


def _shared_with_neighbour(sequences: Sequence[Ids], order: Sequence[int]) -> list[int]:
    """Tokens that each sequence begins with like the one before it in `order`: the most it shares with any before."""
    shared = [0] if order else []
    for before, row in pairwise(order):
        shortest = min(len(sequences[row]), len(sequences[before]))
        differs = sequences[row][:shortest] != sequences[before][:shortest]
        shared.append(int(differs.argmax()) if differs.any() else shortest)
    return shared
