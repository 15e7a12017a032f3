"""Runs killed at seeded random moments, in either mode and with every victim, end like one that was not.

bench/chaos does the same 200 times. tests/flows/test_resume.py kills at named moments, one after the other.
"""

import os
import random
import shutil
from pathlib import Path

import pytest
from pipeline_process import TINY, Pipeline, UndisturbedRun
from test_resume import run_killed

from bench.chaos.campaign import carry_out, free_url, judge, killed_run
from bench.chaos.checks import Witness
from bench.chaos.moments import BOUNDARIES, KINDS, Moment, draw, draw_in, gaps_of, in_order
from bench.chaos.outcome import Blow, Outcome, Plan
from flows.runs import Run, open_run

SEED = 7


@pytest.fixture(scope="module")
def reference(undisturbed: UndisturbedRun) -> Run:
    return open_run(undisturbed.store, undisturbed.name)


def killed_like_an_undisturbed_one(plan: Plan, mode: str, reference: Run) -> Outcome:
    """Do the plan, which must leave nothing wrong."""
    outcome = carry_out(plan, mode)
    assert judge(mode, outcome, killed_run(plan), reference).faults == []
    return outcome


def copy_of(reference: Run, tmp_path: Path) -> Run:
    shutil.copytree(reference.directory, tmp_path / reference.name)
    return open_run(tmp_path, reference.name)


def test_the_checks_find_nothing_in_an_undisturbed_run_and_every_kind_of_moment(reference: Run, tmp_path: Path) -> None:
    assert judge("inline", Outcome(), copy_of(reference, tmp_path), reference).faults == []
    gaps = gaps_of(reference.directory)
    assert {gap.kind for gap in gaps} >= set(KINDS)
    assert {gap.boundary for gap in gaps} >= set(BOUNDARIES)
    assert draw(gaps, 20, random.Random(1)) == draw(gaps, 20, random.Random(1)) != draw(gaps, 20, random.Random(2))


@pytest.mark.parametrize(
    ("removed", "told"),
    [
        ("index/*/stage=1/epoch=0/step-000001.parquet", "missing: stage 1, epoch 0, step 1"),
        ("tables/policies/*/stage=2/epoch=0/version-000008.parquet", "missing: stage 2, epoch 0, step 1"),
        ("tables/metrics/*/stage=1/epoch=1/update-000002.parquet", "missing: stage 1, epoch 1, step 2"),
        ("policies/version-000015/model.safetensors", "differs: policies/version-000015/model.safetensors"),
        ("tables/decisions/*/stage=2/epoch=1/rows.parquet", "differs: table decisions"),
    ],
)
def test_the_checks_see_what_is_missing(reference: Run, tmp_path: Path, removed: str, told: str) -> None:
    run = copy_of(reference, tmp_path)
    (file,) = run.directory.glob(removed)
    file.unlink()
    assert told in judge("inline", Outcome(), run, reference).faults


def test_the_checks_see_a_step_that_was_trained_twice_or_on_other_rollouts(reference: Run, tmp_path: Path) -> None:
    run = copy_of(reference, tmp_path)
    metrics = run.history.read("metrics", stage=1, epoch=0, name="update-000000").to_pylist()
    run.history.publish("metrics", metrics, stage=1, epoch=0, name="update-000000-again")
    (tokens,) = run.directory.glob("tables/metrics/*/stage=1/epoch=0/update-000001.parquet")
    tokens.unlink()
    rows = [{**row, "step": 1} for row in metrics]
    run.history.publish("metrics", rows, stage=1, epoch=0, name="update-000001")
    faults = judge("inline", Outcome(), run, reference).faults
    assert "trained twice: stage 1, epoch 0, step 0" in faults
    assert "trained on other rollouts: stage 1, epoch 0, step 1" in faults


@pytest.mark.parametrize(
    ("early", "first"),
    [
        ("tables/policies/run=tiny/stage=2/epoch=0/version-000008", "index/run=tiny/stage=2/epoch=0/step-000001"),
        (
            "tables/evaluation_rollouts/run=tiny/stage=1/epoch=2/rows",
            "tables/policies/run=tiny/stage=1/epoch=1/version-000006",
        ),
        (
            "data/run=tiny/stage=2/epoch=1/step=0/shard-001",
            "tables/policies/run=tiny/stage=2/epoch=0/version-000011",
        ),
    ],
)
def test_the_checks_see_what_was_written_before_what_it_follows_from(
    reference: Run, tmp_path: Path, early: str, first: str
) -> None:
    run = copy_of(reference, tmp_path)
    os.utime(run.directory / f"{early}.parquet", ns=(0, 0))
    assert judge("inline", Outcome(), run, reference).faults == [
        f"written too early: {early}.parquet before {first}.parquet"
    ]


def test_the_witness_sees_what_was_written_again_though_its_bytes_are_the_same(reference: Run, tmp_path: Path) -> None:
    run, witness = copy_of(reference, tmp_path), Witness()
    assert witness.look(run.directory) == []
    (index,) = run.directory.glob("index/*/stage=1/epoch=0/step-000001.parquet")
    (shard,) = run.directory.glob("data/*/stage=1/epoch=0/step=1/shard-000.parquet")
    content = index.read_bytes()
    index.unlink()
    index.write_bytes(content)
    shard.unlink()
    assert set(witness.look(run.directory)) == {str(path.relative_to(run.directory)) for path in (index, shard)}


@pytest.mark.slow
def test_a_process_killed_in_every_kind_of_stage_and_at_every_kind_of_boundary_loses_nothing(
    reference: Run, tmp_path: Path
) -> None:
    dice, gaps = random.Random(SEED), gaps_of(reference.directory)
    moments = in_order([draw_in(gaps, where, dice) for where in (*KINDS, *BOUNDARIES)], gaps)
    blows = [Blow("process", moment) for moment in moments]
    outcome = killed_like_an_undisturbed_one(
        Plan(str(tmp_path / "runs"), "tiny", str(TINY), SEED, blows, free_url()), "inline", reference
    )
    assert [kill.where for kill in outcome.kills] == [moment.where for moment in moments]


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["its own", "another"])
def test_a_run_outlives_its_prefect_server(reference: Run, tmp_path: Path, whose: str) -> None:
    dice, gaps = random.Random(SEED), gaps_of(reference.directory)
    epochs = ("stage=1/epoch=0", "stage=2/epoch=0")  # between them a stage begins, for which it must be back
    moments = [draw_in([gap for gap in gaps if epoch in gap.after], "rollout", dice) for epoch in epochs]
    blows = [Blow("server", moment) for moment in moments]
    url = free_url() if whose == "another" else ""
    outcome = killed_like_an_undisturbed_one(
        Plan(str(tmp_path / "runs"), "tiny", str(TINY), SEED, blows, url), "inline", reference
    )
    assert [kill.victim for kill in outcome.kills] == ["server", "server"]


@pytest.mark.deployed
def test_a_deployed_run_outlives_every_victim_and_is_brought_back_by_every_way(
    reference: Run, pipeline: Pipeline, tmp_path: Path
) -> None:
    """From stage 1's last decisions on: until there one process trains, which is quicker."""
    store, dice, gaps = tmp_path / "runs", random.Random(SEED), gaps_of(reference.directory)
    run_killed(pipeline, store, ("between decisions and plan", 3))

    def moment(where: str, text: str) -> Moment:
        return draw_in([gap for gap in gaps if text in gap.before], where, dice)

    blows = [
        Blow("stage", moment("evaluate", "stage=1"), "prefect flow-run retry"),
        Blow("orchestrator", moment("stage", "stage=2"), "API"),
        Blow("server", moment("rollout", "stage=2/epoch=0"), "srpo resume"),
        Blow("worker", moment("update", "stage=2/epoch=0"), "srpo resume"),
        Blow("stage", moment("epoch", "stage=2/epoch=1"), "srpo resume, moved"),
        Blow("orchestrator", moment("update", "stage=2/epoch=1"), "srpo resume, inline"),
    ]
    plan = Plan(str(store), "tiny", str(TINY), SEED, blows, free_url())
    outcome = killed_like_an_undisturbed_one(plan, "deployments", reference)
    assert {kill.victim for kill in outcome.kills} == {"stage", "orchestrator", "server", "worker"}
