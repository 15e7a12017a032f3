"""How the work of an update is dealt out, and how a batch reaches the processes that do it."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.packing import micro_batches
from srpo_core.policy.ranks.batches import read_batch, write_batch
from srpo_core.policy.ranks.processes import Ranks, share_of
from srpo_core.settings.parallel import ParallelSettings


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_part_is_one_processs_and_all_make_as_many(count: int, size: int) -> None:
    parts = [np.array([n]) for n in range(count)]
    dealt = [share_of(parts, Ranks(rank, size)) for rank in range(size)]
    assert sorted(int(part[0]) for mine, _ in dealt for part in mine) == list(range(count))
    assert {len(mine) + empty for mine, empty in dealt} == {-(-count // size)}
    assert all(empty <= 1 for _, empty in dealt)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_there_are_as_many_parts_as_processes_can_share_evenly(lengths: list[int], size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 9, length).astype(np.int32) for length in lengths]
    alone = micro_batches(rows, 64, attention_cost=0.01)
    shared = micro_batches(rows, 64, attention_cost=0.01, multiple_of=size)
    assert sorted(np.concatenate(shared).tolist()) == list(range(len(rows)))
    assert len(alone) <= len(shared) <= -(-len(alone) // size) * size


def test_with_enough_alike_rows_no_process_is_idle_and_all_have_as_much() -> None:
    rows = [np.random.default_rng(n).integers(0, 1000, 20).astype(np.int32) for n in range(12)]
    parts = micro_batches(rows, 100, attention_cost=0.01, multiple_of=4)  # alone: three parts of at most five
    assert [len(part) for part in parts] == [3, 3, 3, 3]


def test_a_batch_is_read_as_it_was_written(tmp_path: Path, make_batch: Callable[..., RolloutBatch]) -> None:
    batch = make_batch(seed=1)
    write_batch(tmp_path / "batch.npz", batch)
    read = read_batch(tmp_path / "batch.npz")
    for field in fields(RolloutBatch):
        one, other = getattr(batch, field.name), getattr(read, field.name)
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.asarray(a).dtype == np.asarray(b).dtype, field.name


def test_an_empty_batch_is_read_as_it_was_written(tmp_path: Path) -> None:
    nothing = RolloutBatch([], [], [], np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_))
    write_batch(tmp_path / "batch.npz", nothing)
    assert len(read_batch(tmp_path / "batch.npz").rewards) == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", None])
def test_a_batch_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "batch.npz").write_bytes(content)
    with pytest.raises(PolicyError, match=r"batch\.npz"):
        read_batch(tmp_path / "batch.npz")


def test_a_pickle_in_a_batch_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", rewards=np.array([object()], dtype=object))
    with pytest.raises(PolicyError):
        read_batch(tmp_path / "batch.npz")


def test_several_machines_need_a_place_to_meet() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        ParallelSettings(nodes=2)
    assert ParallelSettings(nodes=2, processes=4, endpoint="node-0:29500").size == 8
