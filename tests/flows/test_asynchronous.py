"""Rollouts that may lag: sampling overlaps updating, no bound is crossed, and the run is the same every time."""

from pathlib import Path

import pytest
from pipeline_process import TINY, Pipeline
from test_resume import assert_same_run, run_killed

from flows.runs import Run, open_run

LAG = ("--set", "rollout.max_staleness=1")


@pytest.fixture(scope="module")
def lagging(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose rollouts lag one policy version behind."""
    store = tmp_path_factory.mktemp("lagging")
    done = pipeline.srpo("run", TINY, "--store", store, *LAG)
    assert done.returncode == 0, done.stderr
    return open_run(store, "tiny")


def test_rollouts_lag_by_one_version_and_never_by_more(lagging: Run) -> None:
    rows = lagging.history.sql("SELECT step, staleness FROM staleness").to_pylist()
    assert {row["staleness"] for row in rows if row["step"] == 0} == {0}
    assert {row["staleness"] for row in rows if row["step"] > 0} == {1}


def test_a_step_is_sampled_while_the_one_before_is_learned_from(lagging: Run) -> None:
    steps = lagging.history.sql("SELECT policy_version FROM step_stats WHERE stage = 1 AND epoch = 0 ORDER BY step")
    assert steps["policy_version"].to_pylist()[:3] == [0, 0, 1]


@pytest.mark.slow
def test_a_lagging_run_that_is_killed_and_resumed_is_the_same_bit_for_bit(
    pipeline: Pipeline, lagging: Run, tmp_path: Path
) -> None:
    (tmp_path / "lag.yaml").write_text(TINY.read_text().replace("rollout: {", "rollout: {max_staleness: 1, "))
    first = ("run", tmp_path / "lag.yaml", "--run-id", "tiny", "--store", tmp_path)
    run_killed(pipeline, tmp_path, ("in the update", 2), ("between shards and index", 1), first=first)
    resumed = pipeline.srpo("resume", "tiny", "--store", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(open_run(tmp_path, "tiny"), lagging)
