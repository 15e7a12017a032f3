"""Keeping a history: what verify finds, that compaction hides and doubles nothing, what pruning refuses and leaves."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from history_samples import decision, fill, selected, shard_rows

from storage.catalog import connect
from storage.compaction import compact, finished_epochs
from storage.files import CorruptFile, StoreError
from storage.history import RunHistory
from storage.retention import epochs_to_prune, plan_pruning, prune
from storage.stores import open_store
from storage.verify import Verified, verify

COMPACTED = "compacted/run=r1/stage=1/epoch=0/index.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished epochs and one that is in work: its first step is committed, a shard of its second published."""
    history = RunHistory(tmp_path_factory.mktemp("whole") / "r1", "r1")
    history.create()
    fill(history)
    finish_plan(history, 2)
    for step in range(2):
        history.write_shard(1, 2, step, 0, shard_rows(["a"], [[1.0, 0.0]]))
    history.commit_step(1, 2, 0, 1)
    return history.directory


@pytest.fixture
def kept(whole: Path, tmp_path: Path) -> RunHistory:
    """A copy of a test's own. Its history.duckdb still looks at the original, until it is compacted or created."""
    return RunHistory(shutil.copytree(whole, tmp_path / "store" / "r1"), "r1")


def finish_plan(history: RunHistory, epoch: int) -> None:
    history.publish("decisions", [decision(p) for p in "abc"], stage=1, epoch=epoch)
    plan = {"prompts": 3, "steps": 2, "first_version": epoch, "selector": "history"}
    history.publish("epochs", [plan], stage=1, epoch=epoch)


def checked(history: RunHistory) -> Verified:
    return verify(history.store)


def path_of(history: RunHistory, pattern: str) -> Path:
    return next(iter(sorted(history.directory.glob(pattern))))


def rows_of(views: duckdb.DuckDBPyConnection, view: str) -> list[Any]:
    return sorted(map(repr, views.sql(f"FROM {view}").fetchall()))


def test_a_whole_history_has_no_faults(kept: RunHistory) -> None:
    compact(kept)
    found = checked(kept)
    assert found.faults == []
    assert (found.files["shards"], found.files["compacted"], found.rollouts) == (5, 2, 14)
    assert (found.uncommitted, found.pruned) == (1, 1)
    assert found.bytes == sum(
        path.stat().st_size for path in kept.directory.rglob("*.parquet") if "step=1" not in str(path)
        and not str(path).endswith("step=0/empty.parquet")
    )  # fmt: skip


NARROW = ["index/run=r1/stage=1/epoch=0/*", "tables/decisions/run=r1/stage=1/epoch=1/*", "compacted/run=r1/*/*/*"]


@pytest.mark.parametrize("pattern", ["data/run=r1/stage=1/epoch=0/step=0/shard-001*", *NARROW])
def test_a_flipped_bit_anywhere_is_found_and_named(kept: RunHistory, pattern: str) -> None:
    compact(kept)
    path = path_of(kept, pattern)
    whole = path.read_bytes()
    for part in range(64):  # first and last byte too: magic, pages, footer, its length
        damaged = bytearray(whole)
        damaged[part * (len(whole) - 1) // 63] ^= 1 << part % 8
        path.write_bytes(damaged)
        places = [fault.place for fault in checked(kept).faults]
        assert str(path) in places, f"byte {part * (len(whole) - 1) // 63} of {len(whole)}"
    path.write_bytes(whole)
    assert checked(kept).faults == []


@pytest.mark.parametrize("pattern", ["data/run=r1/stage=1/epoch=0/step=0/shard-001*", *NARROW])
def test_a_file_cut_short_is_found_and_told_with_a_remedy(kept: RunHistory, pattern: str) -> None:
    compact(kept)
    path = path_of(kept, pattern)
    path.write_bytes(path.read_bytes()[:-7])
    faults = [fault for fault in checked(kept).faults if fault.place == str(path)]
    assert len(faults) == 1
    assert faults[0].what
    assert faults[0].remedy


@pytest.mark.parametrize(
    "pattern", ["data/run=r1/stage=1/epoch=1/step=0/shard-000*", "index/run=r1/stage=1/epoch=1/step-000000*"]
)
def test_a_missing_shard_or_index_file_is_found(kept: RunHistory, pattern: str) -> None:
    path = path_of(kept, pattern)
    path.unlink()
    assert [fault.place for fault in checked(kept).faults] == [str(path)]


def test_training_refuses_an_index_file_whose_footer_was_damaged(kept: RunHistory) -> None:
    path = path_of(kept, "index/run=r1/stage=1/epoch=0/*")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"parquet-cpp")] ^= 1  # who wrote it: no page holds this, and every reader skips it
    path.write_bytes(data)
    assert pq.ParquetFile(path, page_checksum_verification=True).read().num_rows == 6
    with pytest.raises(CorruptFile, match="SHA-256"):
        kept.read_step(1, 0, 0)


def test_verify_reads_every_run_of_a_store_and_names_a_place_without_any(kept: RunHistory, tmp_path: Path) -> None:
    shutil.copytree(kept.directory, kept.directory.parent / "r2")
    path_of(kept, "../r2/index/run=r1/stage=1/epoch=0/*").unlink()
    found = verify(open_store(kept.directory.parent))
    assert found.files["shards"] == 8
    assert len(found.faults) == 1
    assert "r2/index/run=r1/stage=1/epoch=0" in found.faults[0].place
    with pytest.raises(StoreError, match="keeps no run"):
        verify(open_store(tmp_path / "nothing"))


def test_views_give_the_same_rows_before_and_after_compaction_and_later_steps_too(kept: RunHistory) -> None:
    views = ("rollouts", "trajectories", "prompt_stats", "step_stats", "flips", "epoch_stats")
    old = connect(kept.store)  # made before, as a reader's that lives on
    before = {view: rows_of(old, view) for view in views}
    decided = selected(kept, stage=1, epoch=1)
    assert compact(kept) == [(1, 0), (1, 1)]
    assert compact(kept) == []
    for connection in (old, connect(kept.store), duckdb.connect(kept.directory / "history.duckdb", read_only=True)):
        assert {view: rows_of(connection, view) for view in views} == before
    assert kept.is_committed(1, 0, 0)
    assert kept.read_step(1, 0, 0).num_rows == 6
    assert selected(kept, stage=1, epoch=1) == decided
    kept.commit_step(1, 2, 1, 1)
    assert len(rows_of(old, "rollouts")) == len(rows_of(connect(kept.store), "rollouts")) == 16


def test_views_open_one_file_of_a_compacted_epoch(kept: RunHistory) -> None:
    compact(kept)
    for path in kept.directory.glob("index/run=r1/stage=1/epoch=[01]/*"):
        path.write_bytes(b"no reader of the views comes here")
    assert len(rows_of(connect(kept.store), "rollouts")) == 14


def test_one_of_many_runs_may_be_compacted(kept: RunHistory) -> None:
    twin = RunHistory(kept.directory.parent / "r2", "r2")
    twin.create()
    fill(twin)
    before = rows_of(connect(kept.directory.parent), "rollouts")
    compact(kept)
    after = connect(kept.directory.parent)
    assert rows_of(after, "rollouts") == before
    assert len(rows_of(after, "trajectories")) == len(before)


def test_an_unfinished_epoch_is_not_compacted(kept: RunHistory) -> None:
    assert finished_epochs(kept) == [(1, 0), (1, 1)]
    with pytest.raises(StoreError, match=r"Epoch 2 of stage 1 is not finished.*Nothing was compacted"):
        compact(kept, [(1, 0), (1, 2)])
    assert not kept.store.keys("compacted")


KILLED = """
import os, signal, sys
from pathlib import Path
from storage import compaction, retention
from storage.history import RunHistory
history, left = RunHistory(Path(sys.argv[1]), "r1"), [int(sys.argv[2])]
def killing(work):
    def at(*arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*arguments)
    return at
for name in ("publish", "remove"):
    setattr(type(history.store), name, killing(getattr(type(history.store), name)))
compaction.build_catalog = killing(compaction.build_catalog)
if sys.argv[3] == "compact":
    compaction.compact(history)
else:
    for plan in retention.plan_pruning(history, [(1, 0), (1, 1)]):
        retention.prune(history, plan)
"""


def killed_at(history: RunHistory, moment: int, work: str) -> bool:
    """Whether a process that does the work was killed before its `moment`-th file was written or removed."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", KILLED, str(history.directory), str(moment), work]
    ended = subprocess.run(command, check=False, env={"PYTHONPATH": root}, capture_output=True, text=True)
    assert ended.returncode in (0, -9), ended.stderr
    return ended.returncode != 0


def test_compaction_killed_at_any_moment_hides_and_doubles_nothing(kept: RunHistory) -> None:
    kept.create()
    before = rows_of(connect(kept.store), "rollouts")
    moment = 1
    while killed_at(kept, moment, "compact"):
        for connection in (connect(kept.store), duckdb.connect(kept.directory / "history.duckdb", read_only=True)):
            assert rows_of(connection, "rollouts") == before
        shutil.rmtree(kept.directory / "compacted", ignore_errors=True)
        moment += 1
    assert moment == 4  # two epochs and the catalog
    assert rows_of(connect(kept.store), "rollouts") == before


def test_rows_stand_while_epochs_are_compacted_under_readers(kept: RunHistory) -> None:
    kept.create()
    before, ended, seen = rows_of(connect(kept.store), "rollouts"), threading.Event(), []

    def read() -> None:
        while not ended.is_set():
            with connect(kept.store) as mine:
                seen.append(rows_of(mine, "rollouts") == before)
            with duckdb.connect(kept.directory / "history.duckdb", read_only=True) as theirs:
                seen.append(rows_of(theirs, "rollouts") == before)

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        for epoch in (0, 1):
            compact(kept, [(1, epoch)])
        ended.set()
        reader.result()
    assert len(seen) >= 2
    assert all(seen)


def test_pruning_keeps_narrow_rows_and_says_pruned(kept: RunHistory) -> None:
    before = rows_of(connect(kept.store), "rollouts")
    texts = rows_of(connect(kept.store), "trajectories WHERE epoch > 0")
    (plan,) = plan_pruning(kept, epochs_to_prune(kept, 2))
    assert (plan.stage, plan.epoch, plan.steps, len(plan.shards), plan.rollouts) == (1, 0, 1, 2, 6)
    assert plan.bytes == sum(path.stat().st_size for path in kept.directory.glob("data/run=r1/stage=1/epoch=0/*/*"))
    prune(kept, plan)
    assert list(kept.directory.glob("data/run=r1/stage=1/epoch=0/*/*")) == []
    views = connect(kept.store)
    assert rows_of(views, "rollouts") == before
    assert rows_of(views, "trajectories") == texts
    with pytest.raises(StoreError, match=r"Step 0 of epoch 0, stage 1 was pruned"):
        kept.read_step(1, 0, 0)
    assert kept.read_step(1, 1, 0).num_rows == 6
    assert checked(kept).faults == []
    assert plan_pruning(kept, [(1, 0)]) == []
    (row,) = kept.read("pruned", stage=1, epoch=0).to_pylist()
    assert (row["steps"], row["shards"], row["rollouts"], row["bytes"]) == (1, 2, 6, plan.bytes)


def test_a_shard_that_is_missing_without_being_pruned_is_damage(kept: RunHistory) -> None:
    path_of(kept, "data/run=r1/stage=1/epoch=0/*/shard-000*").unlink()
    with pytest.raises(CorruptFile, match="missing"):
        kept.read_step(1, 0, 0)


def test_pruning_killed_at_any_moment_is_told_as_pruned_and_finished_by_the_next(kept: RunHistory) -> None:
    narrow = rows_of(connect(kept.store), "rollouts")
    for moment in range(1, 7):  # a row and two shards for each of two epochs
        copy = RunHistory(shutil.copytree(kept.directory, kept.directory.with_name(f"killed{moment}")), "r1")
        assert killed_at(copy, moment, "prune")
        gone = len(list(kept.directory.glob("data/**/shard*"))) - len(list(copy.directory.glob("data/**/shard*")))
        faults = checked(copy).faults
        assert all("left of an epoch that was pruned" in fault.what for fault in faults)
        assert bool(faults) == (moment % 3 != 1)
        assert gone == {1: 0, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3}[moment]
        for plan in plan_pruning(copy, [(1, 0), (1, 1)]):
            prune(copy, plan)
        assert checked(copy).faults == []
        assert rows_of(connect(copy.store), "rollouts") == narrow


def test_pruning_refuses_what_training_still_needs(kept: RunHistory) -> None:
    with pytest.raises(StoreError, match=r"Epoch 2 of stage 1 is not finished.*Nothing was pruned"):
        plan_pruning(kept, epochs_to_prune(kept, 0))
    path_of(kept, "tables/policies/run=r1/stage=1/epoch=1/*").unlink()
    with pytest.raises(StoreError, match=r"Steps \[0\] of epoch 1.*no published policy"):
        plan_pruning(kept, [(1, 1)])
    with pytest.raises(StoreError, match="-1 epochs cannot be kept"):
        epochs_to_prune(kept, -1)
    assert epochs_to_prune(kept, 5) == []
    finish_plan(kept, 3)  # the next epoch, planned before the stage ended: it will never be sampled
    assert epochs_to_prune(kept, 2) == [(1, 0)]
