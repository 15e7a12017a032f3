"""Four writers killed at random, a polling reader: nothing torn, partial, twice or changed. The checker has teeth."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from history_samples import shard_rows

from bench.torture import GROUPS, SIZE, WRITERS, NaiveHistory, Reader, torture
from storage.history import RunHistory
from storage.tables import write_parquet


def test_nothing_is_torn_partial_twice_or_changed_while_writers_are_killed(tmp_path: Path) -> None:
    ended = torture(tmp_path / "r1", kills=8, most_kills=80, seed=20250422)
    print(f"{ended.kills} kills, {ended.swept} orphans, {ended.findings.steps} steps, {ended.findings.polls} polls")
    assert ended.findings.faults == []
    assert ended.failed == []
    assert ended.findings.steps >= 2
    assert ended.findings.polls >= 2
    assert ended.swept > 0, "no kill hit a temporary: the test has lost its teeth"
    assert ended.left == 0


def test_a_naive_writer_is_caught(tmp_path: Path) -> None:
    ended = torture(tmp_path / "r1", kills=10, most_kills=10, seed=1, store=NaiveHistory)
    assert ended.findings.torn or ended.findings.changed


@pytest.fixture
def reader(history: RunHistory) -> Reader:
    """A reader that has seen one whole step, twice: once through each kind of view."""
    history.create()
    for shard in range(WRITERS):
        history.write_shard(1, 0, 0, shard, step_rows(shard))
    history.commit_step(1, 0, 0, WRITERS)
    reader = Reader(history)
    reader.poll()
    reader.poll()
    reader.check_committed_steps()
    assert (reader.findings.polls, reader.findings.steps, reader.findings.faults) == (2, 1, [])
    return reader


def step_rows(shard: int, seed: int = 0) -> object:
    names = [f"{shard}-{group}" for group in range(GROUPS)]
    return shard_rows(names, [[1.0] * SIZE] * GROUPS, position=shard * GROUPS * SIZE, seed=seed)


def files(history: RunHistory, kind: str) -> list[Path]:
    return sorted((history.directory / kind).glob("run=r1/stage=1/**/*.parquet"))


def test_reader_tells_a_torn_file(reader: Reader, history: RunHistory) -> None:
    copy = files(history, "data")[0].with_name("shard-009.parquet")
    copy.write_bytes(files(history, "data")[0].read_bytes()[:-9])
    reader.poll()
    assert "shard-009" in reader.findings.torn[0]


def test_reader_tells_changed_rows_through_the_views_and_by_the_checksum(reader: Reader, history: RunHistory) -> None:
    path = files(history, "data")[1]
    rows = pq.ParquetFile(path).read()
    shifted = rows["token_ids"].combine_chunks()
    rows = rows.set_column(rows.schema.get_field_index("token_ids"), rows.schema.field("token_ids"), shifted[::-1])
    write_parquet(path, rows)
    reader.poll()
    assert len(reader.findings.changed) == GROUPS * SIZE
    reader.check_committed_steps()
    assert "shard-001" in reader.findings.torn[0]


def test_reader_tells_a_partial_step_and_rows_that_vanish(reader: Reader, history: RunHistory) -> None:
    (index,) = files(history, "index")
    write_parquet(index, pq.ParquetFile(index).read().slice(1), {"srpo.shards": json.dumps({})})
    reader.poll()
    assert reader.findings.partial == [f"step 0 has {WRITERS * GROUPS * SIZE - 1} rollouts"]
    assert len(reader.findings.changed) == 1


def test_reader_tells_duplicates(reader: Reader, history: RunHistory) -> None:
    (index,) = files(history, "index")
    write_parquet(index.with_name("step-000001.parquet"), pq.ParquetFile(index).read())
    reader.poll()
    assert len(reader.findings.duplicates) == 1
