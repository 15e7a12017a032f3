"""Views and macros: described, right on known histories, open to other processes; read-only means read-only."""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from history_samples import fill, shard_rows

from storage.catalog import build_catalog, connect
from storage.files import LocalStore, StoreError
from storage.history import RunHistory
from storage.readonly import open_readonly
from storage.tables import TABLES

VIEWS = {
    *TABLES, "shards", "trajectories", "groups", "prompt_stats", "step_stats", "epoch_stats", "bucket_transitions",
    "flips", "zero_variance", "staleness", "stage_progress", "length_percentiles", "sampling_accounts",
}  # fmt: skip
MACROS = {"pass_at_k", "mentions", "rollouts_of", "search", "best_and_worst", "stage_decision"}


def one(history: RunHistory, query: str) -> dict[str, object]:
    (row,) = history.sql(query).to_pylist()
    return dict(row)


@pytest.mark.parametrize("filled", [False, True])
def test_every_view_and_macro_is_described_and_runs(history: RunHistory, filled: bool) -> None:
    if filled:
        fill(history)
    for where in (history.directory, history.directory.parent):  # a run, and a store of runs
        with connect(where) as views:
            described = dict(views.sql("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall())
            assert set(described) == VIEWS
            assert all(described.values())
            for view in VIEWS:
                rows = views.sql(f"FROM {view}").to_arrow_table().num_rows
                assert bool(rows) == filled, view
            macros = views.sql("SELECT function_name, comment FROM duckdb_functions() WHERE NOT internal").fetchall()
            assert {name for name, _ in macros} == MACROS
            assert all(comment for _, comment in macros)
            assert views.sql("FROM rollouts_of('a')").to_arrow_table().num_rows == (4 if filled else 0)
            columns = views.sql("SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal")
            described_columns = columns.fetchall()
            assert {view for view, _, _ in described_columns} == VIEWS
            assert [(view, column) for view, column, comment in described_columns if not comment] == []


def test_views_tell_a_known_history(filled: RunHistory) -> None:
    step = one(filled, "FROM step_stats WHERE epoch = 1")
    assert (step["groups"], step["rollouts"], step["policy_version"]) == (3, 6, 1)
    assert step["zero_variance_accuracy"] == pytest.approx(2 / 3)
    assert step["zero_variance_reward"] == 0  # the format bonus differs within every group
    assert (step["mean_accuracy"], step["truncated"], step["mean_length"]) == (0.5, 0.5, 3)
    epoch = one(filled, "FROM epoch_stats WHERE epoch = 0")
    assert [epoch[b] for b in ("easy", "mixed", "hard", "ungraded")] == pytest.approx([0, 1 / 3, 2 / 3, 0])
    moved = filled.sql("SELECT from_bucket, to_bucket, prompts FROM bucket_transitions ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in moved] == [("hard", "hard", 1), ("hard", "mixed", 1), ("mixed", "easy", 1)]
    training, evaluation = filled.sql("FROM flips ORDER BY kind DESC").to_pylist()
    assert (training["prompt_id"], training["question"], training["from_epoch"], training["to_epoch"]) == (
        "a",
        "a?",
        0,
        1,
    )
    assert (training["wrong_completion"], training["right_completion"]) == ("answer a 0 0.0", "answer a 0 1.0")
    assert (evaluation["prompt_id"], evaluation["wrong_completion"], evaluation["to_correct"]) == ("h", "held 0", 2)
    assert evaluation["right_completion"] == "held 1"
    assert one(filled, "FROM staleness WHERE epoch = 1")["staleness"] == 0
    assert filled.sql("SELECT prompt_id FROM zero_variance WHERE epoch = 1 AND same_accuracy ORDER BY 1")[
        "prompt_id"
    ].to_pylist() == ["b", "c"]


def test_nearly_equal_rewards_count_as_equal_and_ungraded_groups_as_neither(history: RunHistory) -> None:
    rows = shard_rows(["a", "b"], [[0.3, 0.1 + 0.2], [None, None]])
    history.write_shard(1, 0, 0, 0, rows)
    history.commit_step(1, 0, 0, 1)
    same = history.sql("SELECT prompt_id, same_accuracy FROM groups ORDER BY 1").to_pylist()
    assert same == [{"prompt_id": "a", "same_accuracy": True}, {"prompt_id": "b", "same_accuracy": None}]
    assert one(history, "FROM step_stats")["zero_variance_accuracy"] == 1
    assert one(history, "FROM prompt_stats WHERE prompt_id = 'b'")["bucket"] == "ungraded"


def test_lengths_and_their_correlation_with_reward_leave_ungraded_rollouts_out(history: RunHistory) -> None:
    for shard, (prompt, tokens, accuracy) in enumerate(
        [("a", 10, 1.0), ("b", 20, 1.0), ("c", 30, 0.0), ("d", 40, 0.0), ("e", 1000, None)]
    ):
        rows = shard_rows([prompt], [[accuracy]], position=shard, tokens=tokens)
        history.write_shard(1, 0, 0, shard, rows)
    history.commit_step(1, 0, 0, 5)
    graded = np.corrcoef([10, 20, 30, 40], [1, 1, 0, 0])[0, 1]
    lengths = one(history, "FROM length_percentiles")
    assert (lengths["rollouts"], lengths["longest"]) == (5, 1000)
    assert [lengths[p] for p in ("p05", "p25", "p50", "p75")] == [12, 20, 30, 40]
    assert (lengths["mean_correct"], lengths["mean_wrong"]) == (15, 35)
    assert lengths["reward_correlation"] == pytest.approx(graded)
    assert one(history, "FROM step_stats")["length_reward_correlation"] == pytest.approx(graded)


def test_uncommitted_shards_are_in_no_view(history: RunHistory) -> None:
    fill(history)
    history.write_shard(1, 0, 1, 0, shard_rows(["zz"], [[1.0]]))
    for shard in (2, 3):  # a shard that the step's commit did not name
        history.write_shard(1, 0, 0, shard, shard_rows(["zz"], [[1.0]]))
    with connect(history.directory) as views:
        for view in ("rollouts", "trajectories", "prompt_stats"):
            assert views.sql(f"SELECT count(*) FROM {view} WHERE prompt_id = 'zz'").fetchall() == [(0,)]
        assert views.sql("SELECT count(*) FROM trajectories").fetchall() == [(12,)]


def test_trajectories_of_one_step_open_its_files_alone(history: RunHistory) -> None:
    for step in range(5):
        history.write_shard(1, 0, step, 0, shard_rows(["a"], [[1.0]]))
        history.commit_step(1, 0, step, 1)
    for path in history.directory.glob("data/run=r1/stage=1/epoch=0/step=[0124]/*.parquet"):
        path.write_bytes(b"not read")
    query = "SELECT completion FROM trajectories WHERE stage = 1 AND epoch = 0 AND step = 3"
    assert history.sql(query).num_rows == 1


def test_flips_join_no_shard_with_another(history: RunHistory) -> None:
    fill(history)
    for epoch in range(2, 6):
        history.write_shard(1, epoch, 0, 0, shard_rows(["c"], [[0.0] * 50]))
        history.commit_step(1, epoch, 0, 1)
    with connect(history.directory) as views:
        plan = views.sql("EXPLAIN (ANALYZE, FORMAT json) FROM flips").fetchall()[0][1]
    rows = [int(n) for n in re.findall(r'"intermediate_rows": *(\d+)', plan)]
    assert len(rows) > 5
    assert max(rows) <= 220  # 212 committed rollouts, 4 of an evaluation: two shard reads joined would be thousands


READER = """
import sys, duckdb
for _ in range(8):
    with duckdb.connect(sys.argv[1], read_only=True) as catalog:
        print(catalog.sql("SELECT count(*) FROM trajectories").fetchall()[0][0], flush=True)
        catalog.sql("SELECT * FROM flips").fetchall()
        catalog.sql("FROM rollouts_of('a')").fetchall()
"""


def test_catalog_opens_in_a_second_process_while_a_writer_goes_on(history: RunHistory) -> None:
    history.create()
    fill(history)
    catalog = history.directory / "history.duckdb"
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(catalog)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for step in itertools.count(1):
        history.write_shard(1, 1, step, 0, shard_rows(["a"], [[1.0, 0.0]]))
        history.commit_step(1, 1, step, 1)
        build_catalog(history.directory)
        if reader.poll() is not None:
            break
    out, err = reader.communicate()
    assert reader.returncode == 0, err
    counts = [int(line) for line in out.split()]
    assert counts == sorted(counts)
    assert counts[0] >= 12
    with duckdb.connect(str(catalog), read_only=True) as kept:
        tags = kept.sql("SELECT tags FROM duckdb_databases() WHERE database_name = 'history'").fetchall()
        assert "v1.0.0" in str(tags)
        assert kept.sql("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]


def test_moved_run_and_odd_paths_work_after_a_rebuild(history: RunHistory, tmp_path: Path) -> None:
    fill(history)
    moved = tmp_path / "it's [a*b] store" / "r1"
    shutil.copytree(history.directory, moved)
    shutil.rmtree(history.directory)
    build_catalog(moved)
    with duckdb.connect(str(moved / "history.duckdb"), read_only=True) as kept:
        assert kept.sql("SELECT count(*) FROM trajectories").fetchall() == [(12,)]
    with open_readonly(moved.parent) as store:
        assert store.query("SELECT count(*) AS n FROM trajectories")["n"].to_pylist() == [12]


def test_store_shows_all_its_runs(history: RunHistory) -> None:
    fill(history)
    other = RunHistory(history.directory.parent / "r2", "r2")
    other.create()
    fill(other)
    with connect(history.directory.parent) as views:
        counts = views.sql("SELECT run, count(*) FROM trajectories GROUP BY run ORDER BY run").fetchall()
        assert counts == [("r1", 12), ("r2", 12)]
        assert views.sql("SELECT DISTINCT prompts FROM bucket_transitions").fetchall() == [(1,)]


def test_step_is_a_64_bit_integer_everywhere(filled: RunHistory) -> None:
    with connect(filled.directory) as views:
        types = views.sql(
            "SELECT DISTINCT data_type FROM duckdb_columns() WHERE column_name IN ('stage', 'epoch', 'step', 'row')"
        ).fetchall()
    assert types == [("BIGINT",)]


def test_place_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="keeps no run"):
        connect(tmp_path)
    with pytest.raises(StoreError, match="does not exist"):
        connect(tmp_path / "nothing")


def test_python_variables_are_not_tables(filled: RunHistory) -> None:
    secret = shard_rows(["a"], [[1.0]])
    assert secret.num_rows
    with pytest.raises(StoreError, match="secret does not exist"):
        filled.sql("FROM secret")
    assert filled.sql("SELECT $a AS a", {"a": 3})["a"].to_pylist() == [3]


def test_escaped_path_is_no_pattern() -> None:
    assert LocalStore(Path("/a[b]*?")).pattern == "/a[[]b][*][?]"


def test_a_run_that_was_begun_before_there_was_a_table_is_read(history: RunHistory) -> None:
    fill(history)
    shutil.rmtree(history.directory / "tables" / "changes")
    for where in (history.directory, history.directory.parent):
        with connect(where) as views:
            assert views.sql("SELECT change, setting FROM changes").fetchall() == []
            assert views.sql("SELECT count(*) FROM rollouts").fetchall() != [(0,)]
    history.create()
    assert history.sql("FROM changes").num_rows == 0
