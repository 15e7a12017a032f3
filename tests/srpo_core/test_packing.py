"""Properties of the packing: the forest of prefixes, and the cut into micro-batches."""

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.policy.packing import micro_batches, pack, prefix_forest

Ids = npt.NDArray[np.int32]
# Three tokens and short sequences: many share their beginnings, and some are equal or begin one another.
ids = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(lambda tokens: np.array(tokens, dtype=np.int32))
many = st.lists(ids, max_size=20)


@given(many)
def test_the_forest_has_one_node_for_every_distinct_prefix(sequences: list[Ids]) -> None:
    nodes, count = prefix_forest(sequences)
    prefixes = {tuple(s[:n].tolist()) for s in sequences for n in range(1, len(s) + 1)}
    assert count == len(prefixes)
    of_prefix: dict[tuple[int, ...], int] = {}
    for sequence, members in zip(sequences, nodes, strict=True):
        for n, node in enumerate(members.tolist(), start=1):
            assert of_prefix.setdefault(tuple(sequence[:n].tolist()), node) == node
    assert sorted(of_prefix.values()) == list(range(count))


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=12), st.sampled_from([0.0, 0.3, 10.0]))
def test_packed_rollouts_say_what_every_token_reads_and_predicts(
    rollouts: list[tuple[Ids, Ids]], padding: float
) -> None:
    packed = pack([prompt for prompt, _ in rollouts], [completion for _, completion in rollouts], padding=padding)
    inputs = [np.concatenate([prompt, completion])[:-1] for prompt, completion in rollouts]
    nodes, _ = prefix_forest(inputs)
    predicted = 0
    for (prompt, completion), read, members in zip(rollouts, inputs, nodes, strict=True):
        assert packed.tokens[members].tolist() == read.tolist()
        assert packed.positions[members].tolist() == list(range(len(read)))
        for n, token in enumerate(completion.tolist()):
            assert packed.predictors[predicted] == members[len(prompt) - 1 + n]
            assert packed.targets[predicted] == token
            predicted += 1
    assert predicted == len(packed.targets)
    flat, laid = packed.layout.numpy(), [members.tolist() for members in nodes]
    start = 0
    for rows, width in packed.spans:  # each grid's lines are rollouts, and every rollout is one line
        for line in flat[start : start + rows * width].reshape(rows, width).tolist():
            found = next(members for members in laid if line[: len(members)] == members)
            assert width <= (1 + padding) * len(found)
            laid.remove(found)
        start += rows * width
    assert (start, laid) == (len(flat), [])
    assert (flat[packed.places] == np.arange(len(packed.tokens))).all()
    real = sum(len(prompt) + len(completion) - 1 for prompt, completion in rollouts)
    assert len(set(packed.places.tolist()) | set(packed.shared_places.tolist())) == real
    assert len(packed.places) + len(packed.shared_places) == real


@given(many, st.integers(1, 60), st.sampled_from([0.0, 0.1]))
def test_every_sequence_is_in_one_micro_batch_and_none_exceeds_the_budget_unless_it_is_one_sequence(
    sequences: list[Ids], budget: int, cost: float
) -> None:
    parts = micro_batches(sequences, budget, attention_cost=cost)
    assert sorted(int(place) for part in parts for place in part) == list(range(len(sequences)))
    for part in parts:
        assert len(part) == 1 or prefix_forest([sequences[place] for place in part])[1] <= budget


@given(many, st.integers(1, 60))
def test_balance_costs_no_further_micro_batch(sequences: list[Ids], budget: int) -> None:
    parts = micro_batches(sequences, budget, attention_cost=0.0)
    places = [int(place) for part in parts for place in part]  # neighbours in lexicographic order
    fewest, filled = 0, []
    for place in places:
        if not filled or prefix_forest([sequences[n] for n in [*filled, place]])[1] > budget:
            fewest, filled = fewest + 1, []
        filled.append(place)
    assert len(parts) == fewest


def test_micro_batches_are_alike_in_cost() -> None:
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 1000, random.integers(10, 100)).astype(np.int32) for _ in range(400)]
    parts = micro_batches(sequences, 4096, attention_cost=0.01)
    costs = [sum(len(sequences[n]) + 0.01 * len(sequences[n]) ** 2 for n in part) for part in parts]
    assert len(parts) > 4
    assert max(costs) < 1.1 * np.mean(costs)
