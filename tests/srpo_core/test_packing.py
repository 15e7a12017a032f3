"""Properties of the packing into micro-batches."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.policy.packing import length_buckets

lengths_lists = st.lists(st.integers(1, 60), max_size=50)


@given(lengths_lists, st.integers(1, 200))
def test_every_row_is_in_one_micro_batch(lengths: list[int], budget: int) -> None:
    places = [int(place) for bucket in length_buckets(np.array(lengths, dtype=np.int64), budget) for place in bucket]
    assert sorted(places) == list(range(len(lengths)))


@given(lengths_lists, st.integers(1, 200))
def test_no_micro_batch_exceeds_the_budget_unless_it_is_one_row(lengths: list[int], budget: int) -> None:
    for bucket in length_buckets(np.array(lengths, dtype=np.int64), budget):
        assert len(bucket) >= 1
        assert len(bucket) == 1 or len(bucket) * max(lengths[place] for place in bucket) <= budget


@given(lengths_lists, st.integers(1, 200))
def test_a_micro_batch_holds_what_fits(lengths: list[int], budget: int) -> None:
    buckets = length_buckets(np.array(lengths, dtype=np.int64), budget)
    for bucket, following in pairwise(buckets):
        assert (len(bucket) + 1) * lengths[following[0]] > budget


@given(lengths_lists, st.integers(1, 200))
def test_rows_go_by_length_and_equal_lengths_keep_their_order(lengths: list[int], budget: int) -> None:
    buckets = length_buckets(np.array(lengths, dtype=np.int64), budget)
    order = [(lengths[place], int(place)) for bucket in buckets for place in bucket]
    assert order == sorted(order)
