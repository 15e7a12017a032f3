"""Killed and racing writers, a full disk, a directory that may not be written."""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from history_samples import shard_rows

from storage.catalog import connect
from storage.files import StoreError, StoreFull, publish_file, sweep, temporary_directory
from storage.history import RunHistory

HERE = Path(__file__).parent
PROMPTS, STEPS = 24, 400
NOBODY = 65534


def start_writer(directory: Path, steps: int, prompts: int, tokens: int, url: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "writer_process.py"), str(directory), str(steps), str(prompts), str(tokens)]
    command += [url] if url else []
    root = str(HERE.parents[1])
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


class Reader:
    """Polls a run as the trainer and a viewer would, and remembers what it saw first."""

    def __init__(self, history: RunHistory) -> None:
        self.history = history
        self.seen: dict[int, pa.Table] = {}
        self.polls = 0

    def poll(self) -> None:
        self.polls += 1
        for path in self.history.directory.glob("*/run=r1/stage=1/**/*.parquet"):
            pq.ParquetFile(path).metadata  # noqa: B018 - raises when the file is torn
        with connect(self.history.directory) as views:
            counts = views.sql(
                "SELECT step, count(*), count(DISTINCT (prompt_id, sample)) FROM trajectories GROUP BY step"
            )
            assert {(rows, distinct) for _, rows, distinct in counts.fetchall()} <= {(PROMPTS * 4, PROMPTS * 4)}
        for step in range(max(self.seen, default=-1) + 2):
            if self.history.is_committed(1, 0, step):
                rows = self.history.read_step(1, 0, step)
                assert rows.num_rows == PROMPTS * 4
                assert self.seen.setdefault(step, rows).equals(rows)


def test_killed_writers_leave_no_torn_partial_or_changed_step(history: RunHistory) -> None:
    dice = random.Random(20250422)
    reader = Reader(history)
    orphans = 0
    for kill in range(12):
        writer = start_writer(history.directory, STEPS, PROMPTS, 4000)
        before = set(history.tmp_root.iterdir())
        deadline = time.monotonic() + dice.uniform(0.005, 0.2)
        go(writer)
        while time.monotonic() < deadline:
            pass  # not a wait for something: the moment of the kill is what is drawn
        while kill % 3 == 0 and set(history.tmp_root.iterdir()) <= before:  # however slow the machine, some hit a file
            assert writer.poll() is None, "the writer ended before it was killed"
        writer.kill()
        writer.communicate()
        orphans += len(list(history.tmp_root.iterdir()))
        reader.poll()
        if dice.random() < 0.5:  # later writers must also cope with what earlier ones left
            left = len(list(history.tmp_root.iterdir()))
            assert history.sweep() == left
    writer = start_writer(history.directory, len(reader.seen) + 3, PROMPTS, 4000)
    go(writer)
    while writer.poll() is None:
        reader.poll()
    writer.communicate()
    reader.poll()
    assert writer.returncode == 0
    assert len(reader.seen) >= 3
    print(f"{orphans} temporaries left, {len(reader.seen)} steps seen, {reader.polls} polls")
    assert orphans > 0, "no kill hit a temporary: the test has lost its teeth"
    history.sweep()
    assert list(history.tmp_root.iterdir()) == []


def test_of_racing_processes_exactly_one_publishes_and_all_agree(history: RunHistory) -> None:
    writers = [start_writer(history.directory, 3, 4, 2000) for _ in range(3)]
    for writer in writers:
        go(writer)
    lines = [line.split() for writer in writers for line in writer.communicate(timeout=60)[0].splitlines()]
    assert all(writer.returncode == 0 for writer in writers)
    for step in range(3):
        rows = history.read_step(1, 0, step)
        for shard in range(2):
            winners = [line[4] for line in lines if line[:4] == ["shard", str(step), str(shard), "True"]]
            assert winners == [str(rows["token_ids"][shard * 8].as_py()[0])]
        assert [line[2] for line in lines if line[:2] == ["step", str(step)]].count("True") == 1


def test_sweep_takes_orphans_and_spares_what_a_living_writer_holds(history: RunHistory) -> None:
    (history.tmp_root / "orphan").write_bytes(b"half a file")
    (history.tmp_root / "orphans").mkdir()
    (history.tmp_root / "orphans" / "model").write_bytes(b"half a policy")
    final = history.directory / "policies" / "file"

    def write(path: Path) -> None:
        path.write_text("whole")
        assert history.sweep() == 2
        assert history.sweep() == 0

    with temporary_directory(history.tmp_root) as held:
        assert publish_file(final, history.tmp_root, write)
        assert held.is_dir()
    assert final.read_text() == "whole"
    assert list(history.tmp_root.iterdir()) == []
    assert sweep(history.directory / "nothing") == 0


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a full disk needs a tmpfs, and only root may mount one: NOT TESTED")
    with tempfile.TemporaryDirectory() as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"a full disk needs a tmpfs, and mounting one failed: {mounted.stderr.strip()}: NOT TESTED")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def test_full_disk_is_named_and_loses_nothing() -> None:
    rows = shard_rows(["a", "b"], [[0.0, 1.0]] * 2, tokens=500_000)
    with small_disk("6m") as disk:
        history = RunHistory(disk / "r1", "r1")
        history.create()
        history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))
        history.commit_step(1, 0, 0, 1)
        with pytest.raises(StoreFull, match=r"shard-000\.parquet.*no space.*free some space"):
            history.write_shard(1, 0, 1, 0, rows)
        assert not history.has_shard(1, 0, 1, 0)
        assert list(history.tmp_root.iterdir()) == []
        assert history.read_step(1, 0, 0).num_rows == 1
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert history.write_shard(1, 0, 1, 0, rows)


@contextlib.contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Root is not bound by permission bits; the same process as nobody is."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_directory_that_may_not_be_written_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        history = RunHistory(Path(name) / "r1", "r1")
        history.create()
        folders = [history.directory, *(path for path in history.directory.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        with bound_by_permissions():
            with pytest.raises(StoreError, match=r"shard-000\.parquet may not be written.*write permission"):
                history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))
            with pytest.raises(StoreError, match="may not be written"):
                RunHistory(Path(name) / "r1" / "inner", "r2").create()
        history.tmp_root.chmod(0o777)  # the temporary can be made, the final name cannot
        with bound_by_permissions(), pytest.raises(StoreError, match="may not be written"):
            history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))
        assert list(history.tmp_root.iterdir()) == []
        for folder in folders:
            folder.chmod(0o755)


def test_writing_into_a_run_that_was_never_made_or_was_removed_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"_tmp does not exist.*RunHistory\.create"):
        RunHistory(tmp_path / "nothing", "r1").write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_temporary_goes_when_writing_fails(history: RunHistory, error: BaseException) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        publish_file(history.directory / "policies" / "x", history.tmp_root, write)
    assert list(history.tmp_root.iterdir()) == []
    assert not (history.directory / "policies" / "x").exists()
