"""What is seen is durable, or counts for nothing yet: the order of fsyncs and links, as a power cut would meet them."""

import os
from pathlib import Path
from typing import Any

import pytest
from history_samples import shard_rows

from storage.files import publish_directory
from storage.history import RunHistory


class Disk:
    """What was made durable, and what was durable already when a name appeared."""

    def __init__(self) -> None:
        self.durable: set[Path] = set()
        self.seen: dict[Path, set[Path]] = {}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Listens to fsync, link and rename, which do their work."""
    disk, real_fsync, real_link, real_rename = Disk(), os.fsync, os.link, os.rename

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        disk.durable.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    def link(source: Any, final: Any) -> None:
        disk.seen[Path(final)] = set(disk.durable)
        disk.durable.discard(Path(final).parent)
        real_link(source, final)
        if Path(source) in disk.durable:
            disk.durable.add(Path(final))

    def rename(source: Any, final: Any) -> None:
        disk.seen[Path(final)] = set(disk.durable)
        real_rename(source, final)

    for name, listener in (("fsync", fsync), ("link", link), ("rename", rename)):
        monkeypatch.setattr(os, name, listener)
    return disk


def commit(history: RunHistory, **more: Any) -> tuple[list[Path], Path]:
    """Commit a step of two shards; gives the shards' files and the index file."""
    for shard, prompt in enumerate(("a", "b")):
        history.write_shard(1, 0, 0, shard, shard_rows([prompt], [[1.0, 0.0]], position=2 * shard))
    history.commit_step(1, 0, 0, 2, **more)
    place = "run=r1/stage=1/epoch=0"
    shards = sorted((history.directory / "data" / place / "step=0").glob("*.parquet"))
    return shards, history.directory / "index" / place / "step-000000.parquet"


def test_a_step_is_seen_only_when_all_that_it_names_is_durable(history: RunHistory, disk: Disk) -> None:
    shards, index = commit(history)
    folders = {path for path in shards[0].parents if path.is_relative_to(history.directory)}
    assert {*shards, *folders} <= disk.seen[index]


def test_a_committed_step_is_durable_on_return(history: RunHistory, disk: Disk) -> None:
    _, index = commit(history)
    assert {index, index.parent} <= disk.durable


def test_who_is_told_of_a_step_sees_it_and_its_metrics(history: RunHistory) -> None:
    rows = [{"step": 0, "policy_version": 0, "kind": "rollout", "name": "a", "value": 1.0}]
    told = []

    def look() -> None:
        told.append((history.is_committed(1, 0, 0), history.read("metrics", stage=1, epoch=0, name="m").num_rows))

    commit(history, metrics=("m", rows), seen=look)
    assert told == [(True, 1)]


def test_metrics_of_an_earlier_attempt_stand_when_the_step_is_committed(history: RunHistory) -> None:
    first, second = (
        [{"step": 0, "policy_version": 0, "kind": "rollout", "name": "a", "value": value}] for value in (1.0, 2.0)
    )
    history.publish("metrics", first, stage=1, epoch=0, name="m")
    commit(history, metrics=("m", second))
    assert history.is_committed(1, 0, 0)
    assert history.read("metrics", stage=1, epoch=0, name="m")["value"].to_pylist() == [1.0]


def test_a_directory_is_seen_only_when_all_its_files_are_durable(history: RunHistory, disk: Disk) -> None:
    prepared = history.tmp_root / "prepared"
    prepared.mkdir()
    files = [prepared / name for name in ("a", "b", "c")]
    for file in files:
        file.write_text("content")
    final = history.directory / "policies" / "version-000001"
    assert publish_directory(prepared, final)
    assert {*files, prepared} <= disk.seen[final]
    assert final.parent in disk.durable
