"""A run stops at its limits, between two steps, and goes on as if it never had once they are raised."""

import json
import os
import shutil
from pathlib import Path

import pytest
from pipeline_process import TINY, Pipeline, UndisturbedRun
from test_resume import policies, tables

from flows.guards import Guards, LimitReachedError, check_disk
from flows.runs import Run, open_run
from srpo_core.settings_file import dump_settings, with_values


@pytest.mark.slow
def test_a_run_stops_at_its_limit_and_goes_on_once_it_is_raised(
    pipeline: Pipeline, undisturbed: UndisturbedRun, tmp_path: Path
) -> None:
    stopped = pipeline.srpo("run", TINY, "--store", tmp_path, "--set", "guards.max_tokens=1")
    assert stopped.returncode == 1
    told = [line for line in stopped.stderr.splitlines() if line]
    assert told[0].startswith("srpo: run tiny stops at guards.max_tokens: "), stopped.stderr
    assert told[0].endswith(
        "the limit is 1. What is committed stands, and `srpo resume tiny --set guards.max_tokens=...` "
        "goes on with another limit"
    )
    assert len(told) == 1
    run = open_run(tmp_path, "tiny")
    # Between steps: what was sampled was learned from.
    assert run.history.sql("SELECT count(DISTINCT step) AS n FROM rollouts").to_pylist() == [{"n": 1}]
    assert sorted(run.history.read("policies")["version"].to_pylist()) == [0, 1]
    status = json.loads(pipeline.srpo("status", "tiny", "--store", tmp_path, "--json").stdout)
    assert status["state"] == "stopped"
    assert status["reason"].startswith(f"guards.max_tokens: {status['tokens']:,} tokens were sampled")
    assert "run tiny: stopped: guards.max_tokens: " in pipeline.srpo("status", "tiny", "--store", tmp_path).stdout
    assert pipeline.srpo("resume", "tiny", "--store", tmp_path).returncode == 1
    assert run.history.sql("SELECT count(DISTINCT step) AS n FROM rollouts").to_pylist() == [{"n": 1}]
    resumed = pipeline.srpo("resume", "tiny", "--store", tmp_path, "--set", "guards.max_tokens=null")
    assert resumed.returncode == 0, resumed.stderr
    assert "run tiny goes on with guards.max_tokens null, was 1" in resumed.stdout
    whole = open_run(undisturbed.store, "tiny")
    mine, theirs = tables(run), tables(whole)
    assert [row["setting"] for row in mine.pop("changes")] == ["guards.max_tokens"]
    assert theirs.pop("changes") == []
    assert mine == theirs
    assert policies(run) == policies(whole)


@pytest.fixture
def finished(undisturbed: UndisturbedRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed.store, tmp_path / "store"))


def limited(store: Path, **values: float) -> Run:
    """The finished run as it would be with these limits, or other settings."""
    run = open_run(store, "tiny")
    settings = with_values(run.settings, {name.replace("__", "."): value for name, value in values.items()})
    (run.directory / "settings.yaml").write_text(dump_settings(settings))
    return open_run(store, "tiny")


@pytest.mark.parametrize("limit", [{"guards__max_tokens": 1}, {"guards__max_hours": 1e-9}])
def test_what_is_counted_step_by_step_is_what_is_counted_at_once(finished: Path, limit: dict[str, float]) -> None:
    run = limited(finished, **limit)
    at_once = Guards(run).beyond()
    hidden = [
        (path, path.with_suffix(".hidden")) for path in run.directory.glob("index/run=tiny/stage=2/epoch=1/step-*")
    ]
    for kind in ("rollout", "update"):
        found = run.directory.glob(f"tables/metrics/run=tiny/stage=2/epoch=1/{kind}-*")
        hidden += [(path, path.with_suffix(".hidden")) for path in found]
    assert len(hidden) >= 6
    for path, other in hidden:
        path.rename(other)
    guards = Guards(run, stage=2, epoch=1)
    less = guards.beyond()
    for path, other in hidden:
        other.rename(path)
    assert less != at_once
    assert guards.beyond() == at_once


def test_a_limit_is_reached_with_its_last_token_and_not_before(finished: Path) -> None:
    whole = open_run(finished, "tiny").history.sql("SELECT sum(completion_tokens)::BIGINT AS tokens FROM rollouts")
    tokens = whole["tokens"][0].as_py()
    assert Guards(limited(finished, guards__max_tokens=tokens + 1)).beyond() is None
    assert Guards(limited(finished, guards__max_tokens=tokens)).beyond() is not None


def test_hours_are_those_of_sampling_updates_and_evaluations_and_count_once_where_they_overlap(finished: Path) -> None:
    def hours(run: Run) -> float:
        told = Guards(run).beyond()
        assert told is not None
        return float(told.how.partition(" ")[0])

    query = """
        SELECT sum({}) / 3600 AS hours FROM (
            SELECT stage, epoch, coalesce(sum(value) FILTER (kind = 'rollout'), 0) AS r,
                coalesce(sum(value) FILTER (kind = 'update'), 0) AS u,
                coalesce(sum(value) FILTER (kind = 'evaluate'), 0) AS e
            FROM metrics WHERE name LIKE 'timing_s/%' GROUP BY ALL)
    """
    one_by_one = limited(finished, guards__max_hours=1e-9)
    (row,) = one_by_one.history.sql(query.format("r + u + e")).to_pylist()
    assert hours(one_by_one) == pytest.approx(row["hours"], rel=0.01)
    overlapping = limited(finished, rollout__max_staleness=1)
    (row,) = overlapping.history.sql(query.format("greatest(r, u) + e")).to_pylist()
    assert hours(overlapping) == pytest.approx(row["hours"], rel=0.01)


def test_a_run_stops_while_there_is_still_room_wherever_it_writes(finished: Path, tmp_path: Path) -> None:
    there = os.statvfs(finished)
    free = there.f_bavail * there.f_frsize / 1e9
    enough = limited(finished, guards__min_free_gb=free / 2)
    check_disk(enough)
    Guards(enough).check()
    short = limited(finished, guards__min_free_gb=free * 2)
    for check in (check_disk, lambda run: Guards(run).check()):
        with pytest.raises(LimitReachedError, match=r"guards\.min_free_gb: .* GB are free in .*/tiny, less than"):
            check(short)


def test_without_limits_nothing_is_counted(finished: Path) -> None:
    shutil.rmtree(finished / "tiny" / "index")
    shutil.rmtree(finished / "tiny" / "tables" / "metrics")
    assert Guards(open_run(finished, "tiny"), stage=1, epoch=0).beyond() is None
