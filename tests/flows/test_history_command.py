"""`srpo history`: what it prints, its exit statuses, and that it refuses what it should."""

import importlib.util
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.runs import Run, create_run
from srpo_core.settings_file import load_settings

ROOT = Path(__file__).parents[2]


def samples() -> Any:
    """tests/storage/history_samples.py, which is on the path of its own folder's tests alone."""
    spec = importlib.util.spec_from_file_location("history_samples", ROOT / "tests/storage/history_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two finished epochs."""
    run = create_run(tmp_path / "runs", "r1", load_settings(ROOT / "configs/demo.yaml"))
    samples().fill(run.history)
    return run


def srpo(run: Run, *arguments: str, target: str = "r1") -> Result:
    command, *rest = arguments
    return CliRunner().invoke(app, ["history", command, target, "--store", str(run.store), *rest])


def test_verify_tells_a_whole_history_and_a_damaged_one_apart(run: Run) -> None:
    whole = srpo(run, "verify")
    assert whole.exit_code == 0
    assert "every file is what was written" in whole.output
    assert "read 4 shards, 3 index files" in whole.output
    shard = run.directory / "data/run=r1/stage=1/epoch=0/step=0/shard-000.parquet"
    shard.write_bytes(b"PAR1" + shard.read_bytes()[4:-1] + b"x")
    for target in ("r1", str(run.directory), str(run.store)):
        damaged = srpo(run, "verify", target=target)
        assert damaged.exit_code == 1
        assert f"{shard} is not what was committed" in damaged.output
        assert "Put a good copy back" in damaged.output
        assert "1 faults" in damaged.output


@pytest.mark.parametrize("command", ["verify", "sweep", "compact", "prune"])
def test_a_run_that_is_not_there_is_wrong_use(run: Run, command: str) -> None:
    answer = srpo(run, command, target="nothing")
    assert answer.exit_code == 2
    assert "no run 'nothing'" in answer.output
    assert "it has r1" in answer.output


def test_sweep_removes_orphans(run: Run) -> None:
    (run.directory / "_tmp" / "orphan").write_bytes(b"half a file")
    assert "1 temporaries" in srpo(run, "sweep").output
    assert list((run.directory / "_tmp").iterdir()) == []
    assert "0 temporaries" in srpo(run, "sweep").output


def test_compact_is_told_and_idempotent(run: Run) -> None:
    rows = run.history.sql("SELECT * FROM rollouts ORDER BY ALL")
    assert "stage 1, epoch 0 compacted" in srpo(run, "compact", "--stage", "1", "--epoch", "0").output
    assert "stage 1, epoch 1 compacted" in srpo(run, "compact").output
    assert "nothing to compact" in srpo(run, "compact").output
    assert run.history.sql("SELECT * FROM rollouts ORDER BY ALL") == rows
    with duckdb.connect(run.directory / "history.duckdb", read_only=True) as other:
        assert other.sql("SELECT count(*) FROM rollouts").fetchall() == [(rows.num_rows,)]
    assert srpo(run, "compact", "--stage", "1").exit_code == 2
    unfinished = srpo(run, "compact", "--stage", "1", "--epoch", "7")
    assert unfinished.exit_code == 1
    assert "Epoch 7 of stage 1 is not finished" in unfinished.output


def test_prune_tells_first_and_removes_with_yes_alone(run: Run) -> None:
    shards = sorted((run.directory / "data").glob("run=r1/stage=1/epoch=0/*/*.parquet"))
    told = srpo(run, "prune", "--keep-epochs", "1")
    assert told.exit_code == 0
    assert "stage 1, epoch 0: 2 shards, 6 rollouts" in told.output
    assert "nothing was removed yet" in told.output
    assert all(path.is_file() for path in shards)
    assert "removed" in srpo(run, "prune", "--keep-epochs", "1", "--yes").output
    assert not any(path.exists() for path in shards)
    assert "nothing to prune" in srpo(run, "prune", "--keep-epochs", "1").output
    assert "2 epochs are pruned" in srpo(run, "verify").output  # and the one that the sample names
    for wrong in ([], ["--keep-epochs", "1", "--stage", "1", "--epoch", "0"], ["--stage", "1"]):
        assert srpo(run, "prune", *wrong).exit_code == 2
    assert srpo(run, "prune", "--stage", "1", "--epoch", "5", "--yes").exit_code == 1


def test_export_writes_a_query_or_a_dataset_and_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "stats.parquet"
    query = ("--query", "SELECT prompt_id, pass_rate FROM prompt_stats", "--to", str(out))
    assert "6 rows exported" in srpo(run, "export", *query).output
    assert pq.read_table(out).column_names == ["prompt_id", "pass_rate"]
    again = srpo(run, "export", *query)
    assert again.exit_code == 1
    assert "nothing is overwritten" in again.output
    assert "12 rollouts exported" in srpo(run, "export", "--dataset", "--to", str(tmp_path / "set")).output
    assert (tmp_path / "set" / "README.md").is_file()
    writes = srpo(run, "export", "--query", "CREATE TABLE x (a INT)", "--to", str(tmp_path / "x.parquet"))
    assert writes.exit_code == 1
    assert "no statement that only reads" in writes.output
    assert srpo(run, "export", "--to", str(tmp_path / "x.parquet")).exit_code == 2
    assert not (tmp_path / "x.parquet").exists()
