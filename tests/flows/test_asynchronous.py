"""Rollouts that may lag: sampling overlaps updating, no bound is crossed, and the run is the same every time."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest
from pipeline_process import TINY, Pipeline
from taken_back import take_back
from test_resume import assert_same_run, run_killed

from flows.runs import Run, RunError, open_run
from flows.update import EpochUpdates
from storage.tables import SHARDS

SHARDS_A_STEP = 2  # four groups, three to a shard


def settings(bound: int) -> tuple[str, ...]:
    """Epochs of tests/flows/tiny.yaml that are longer than any bound here, and no more versions kept than must be."""
    changes = {
        "keep_policies": bound + 1,
        "rollout.max_staleness": bound,
        "rollout.prompts_per_step": 4,
        "stages.math.max_steps": 1,
        "stages.math_and_code.max_steps": 1,
    }
    return tuple(part for name, value in changes.items() for part in ("--set", f"{name}={value}"))


@pytest.fixture(scope="module")
def lagging(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Run]:
    """The run whose rollouts may lag by so many policy versions. Leave it as it is."""

    @cache
    def trained(bound: int) -> Run:
        store = tmp_path_factory.mktemp("lagging")
        done = pipeline.srpo("run", TINY, "--store", store, *settings(bound))
        assert done.returncode == 0, done.stderr
        return open_run(store, "tiny")

    return trained


def plant(run: Run, source: Run, stage: int, step: int, version: int, *, rows: int | None = None) -> None:
    """Commit `source`'s rollouts of a step of epoch 0 in `run`, as another writer would, the first `rows` of each shard
    sampled by policy `version`."""
    for shard in range(SHARDS_A_STEP):
        table = source.history.read_shard(stage, 0, step, shard, [column.name for column in SHARDS.columns])
        versions = table["policy_version"].to_pylist()
        changed = [version] * len(versions[:rows]) + versions[len(versions[:rows]) :]
        place = table.schema.get_field_index("policy_version")
        table = table.set_column(place, table.schema.field(place), pa.array(changed, table.schema.field(place).type))
        assert run.history.write_shard(stage, 0, step, shard, table)
    run.history.commit_step(stage, 0, step, SHARDS_A_STEP)


@pytest.mark.parametrize("bound", [2, *(pytest.param(bound, marks=pytest.mark.slow) for bound in (0, 1, 3))])
def test_every_rollout_is_as_stale_as_allowed_but_for_the_epochs_first(
    lagging: Callable[[int], Run], bound: int
) -> None:
    history = lagging(bound).history
    learned = history.sql(
        "SELECT stage, step, version - 1 - policy_version AS staleness "
        "FROM rollouts JOIN policies USING (stage, epoch, step)"
    ).to_pylist()
    assert len(learned) == history.sql("SELECT count(*) AS n FROM rollouts")["n"][0].as_py()
    assert all(row["staleness"] == min(row["step"], bound) for row in learned)
    for stage in (1, 2):
        assert {row["staleness"] for row in learned if row["stage"] == stage} == set(range(bound + 1))
    told = history.sql("SELECT staleness, sum(rollouts)::INT AS rollouts FROM staleness GROUP BY ALL").to_pylist()
    counted = [row["staleness"] for row in learned]
    assert {row["staleness"]: row["rollouts"] for row in told} == {each: counted.count(each) for each in set(counted)}


def test_a_step_with_one_rollout_beyond_the_bound_is_refused_and_not_learned_from(
    lagging: Callable[[int], Run], tmp_path: Path
) -> None:
    """The last step of a run, taken back and committed again by another writer."""
    source = lagging(2)
    run, step, version = take_back(source, tmp_path, stage=2, epoch=0)
    plant(run, source, 2, step, version - 1 - 3, rows=1)
    with pytest.raises(RunError, match=rf"step {step} has .* version {version - 4}, 3 versions .* allows 2"):
        EpochUpdates(run, 2, 0).update_step(step)
    assert not run.policy(version).exists()
    assert not run.history.has("metrics", stage=2, epoch=0, name=f"update-{step:06d}")
    assert not run.history.has("policies", stage=2, epoch=0, name=f"version-{version:06d}")


@pytest.mark.slow
def test_a_run_ends_at_a_step_beyond_the_bound_and_goes_on_as_the_message_says(
    pipeline: Pipeline, lagging: Callable[[int], Run], tmp_path: Path
) -> None:
    first = ("run", TINY, "--store", tmp_path, *settings(2))
    run_killed(pipeline, tmp_path, ("in the middle of a shard", 4 * SHARDS_A_STEP + 1), first=first)
    run = open_run(tmp_path, "tiny")
    plant(run, lagging(2), 1, 4, 1)
    refused = pipeline.srpo("resume", "tiny", "--store", tmp_path)
    assert refused.returncode == 1
    assert "rollouts of policy version 1, 3 versions behind version 4" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert max(run.history.read("policies")["version"].to_pylist()) == 4
    assert not run.history.has("metrics", stage=1, epoch=0, name="update-000004")
    shutil.rmtree(run.directory / "data/run=tiny/stage=1/epoch=0/step=4")
    (run.directory / "index/run=tiny/stage=1/epoch=0/step-000004.parquet").unlink()
    resumed = pipeline.srpo("resume", "tiny", "--store", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(run, lagging(2))


@pytest.mark.slow
def test_a_lagging_run_that_is_killed_and_resumed_is_the_same_bit_for_bit(
    pipeline: Pipeline, lagging: Callable[[int], Run], tmp_path: Path
) -> None:
    kills = [
        ("in the update", 3),
        ("between shards and index", 2),
        ("while pruning", 2),
    ]
    run_killed(pipeline, tmp_path, *kills, first=("run", TINY, "--store", tmp_path, *settings(2)))
    resumed = pipeline.srpo("resume", "tiny", "--store", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(open_run(tmp_path, "tiny"), lagging(2))
