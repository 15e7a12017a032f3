"""What the Prefect UI shows of a run, asked of the API: names, tags, lines, artifacts with the history's figures."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from pipeline_process import HERE, Pipeline, UndisturbedRun
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.execution import directory_tag
from flows.runs import Run, open_run
from flows.status import read_status


@dataclass(frozen=True)
class Shown:
    """A run, and what the API has of it."""

    run: Run
    flow_runs: list[FlowRun]
    artifacts: dict[str, list[Any]]  # the artifacts' data by series, oldest first
    lines: list[str]  # lines for people in the logs


def pages(read: Any, **filters: Any) -> Iterator[Any]:
    offset = 0
    while page := read(limit=200, offset=offset, **filters):
        yield from page
        offset += len(page)


def ask(pipeline: Pipeline, run: Run) -> Shown:
    """What the session's server has of a run."""
    url = pipeline.environment["PREFECT_API_URL"]
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        return _ask(client, run)


def _ask(client: SyncPrefectClient, run: Run) -> Shown:
    tagged = FlowRunFilter.model_validate({"tags": {"all_": [directory_tag(run.directory)]}})
    flow_runs = list(pages(client.read_flow_runs, flow_run_filter=tagged))
    ids = {"any_": [flow_run.id for flow_run in flow_runs]}
    found = pages(client.read_artifacts, artifact_filter=ArtifactFilter.model_validate({"flow_run_id": ids}))
    artifacts: dict[str, list[Any]] = {}
    for artifact in sorted(found, key=lambda artifact: artifact.created):
        artifacts.setdefault(artifact.key.removeprefix(f"{run.name}-"), []).append(artifact.data)
    logs = pages(client.read_logs, log_filter=LogFilter.model_validate({"flow_run_id": ids}))
    return Shown(run, flow_runs, artifacts, [log.message for log in logs if log.name.endswith(".srpo")])


@pytest.fixture(scope="module")
def shown(pipeline: Pipeline, undisturbed: UndisturbedRun) -> Shown:
    return ask(pipeline, open_run(undisturbed.store, undisturbed.name))


def rows(shown: Shown, query: str) -> list[dict[str, Any]]:
    return shown.run.history.sql(query).to_pylist()


def epochs(shown: Shown) -> list[tuple[int, int]]:
    found = rows(shown, "SELECT DISTINCT stage, epoch FROM rollouts ORDER BY ALL")
    return [(row["stage"], row["epoch"]) for row in found]


def test_a_run_has_every_series_once_for_each_thing_that_it_shows(shown: Shown) -> None:
    evaluations = len(rows(shown, "SELECT DISTINCT stage, epoch FROM evaluations"))
    each_epoch = dict.fromkeys(("resampling", "decisions", "steps", "epoch"), len(epochs(shown)))
    counts = {series: len(found) for series, found in shown.artifacts.items() if not series.endswith("-progress")}
    assert counts == each_epoch | {"evaluation": evaluations, "summary": 1, "report": 1, "store": 1}


def test_the_table_of_steps_has_the_historys_figures(shown: Shown) -> None:
    for (stage, epoch), table in zip(epochs(shown), shown.artifacts["steps"], strict=True):
        here = f"stage = {stage} AND epoch = {epoch}"
        found = rows(shown, f"FROM step_stats WHERE {here} ORDER BY step")
        measured = "name IN ('entropy', 'grad_norm', 'timing_s/generate')"
        metrics = rows(shown, f"SELECT step, name, value FROM metrics WHERE {here} AND {measured}")
        values = {(row["step"], row["name"]): row["value"] for row in metrics}
        for told, row in zip(json.loads(table), found, strict=True):
            assert (told["step"], told["rollouts"], told["staleness"]) == (row["step"], row["rollouts"], 0)
            assert told["version"] == row["policy_version"] + 1
            assert told["reward"] == pytest.approx(row["mean_reward"], rel=1e-4)
            assert told["accuracy"] == pytest.approx(row["mean_accuracy"], rel=1e-4)
            assert told["zero_variance"] == pytest.approx(row["zero_variance_reward"], rel=1e-4)
            assert told["length"] == pytest.approx(row["mean_length"], rel=1e-4)
            for column, name in (
                ("entropy", "entropy"),
                ("grad_norm", "grad_norm"),
                ("generate_s", "timing_s/generate"),
            ):
                assert told[column] == pytest.approx(values[row["step"], name], rel=1e-4)


def test_the_text_of_an_epoch_tells_what_the_history_says_of_it(shown: Shown) -> None:
    for (stage, epoch), text in zip(epochs(shown), shown.artifacts["epoch"], strict=True):
        here = f"stage = {stage} AND epoch = {epoch}"
        totals = "count(*) AS n, sum(completion_tokens)::BIGINT AS tokens, avg(reward) AS reward"
        (whole,) = rows(shown, f"SELECT {totals} FROM rollouts WHERE {here}")
        first, *_, last = rows(shown, f"SELECT mean_reward FROM step_stats WHERE {here} ORDER BY step")
        (transition,) = rows(shown, f"FROM transitions WHERE {here}")
        assert f"{whole['n']:,} rollouts, {whole['tokens']:,} tokens" in text
        rewards = (first["mean_reward"], last["mean_reward"], whole["reward"])
        assert "| reward | " + " | ".join(f"{reward:.3f}" for reward in rewards) + " |" in text
        assert f"{transition['decision']}, as {transition['reason']}" in text
        (wall,) = rows(shown, f"SELECT value FROM metrics WHERE {here} AND name = 'timing_s/wall'")
        assert f"wall {wall['value']:.1f}" in text
        after = f"stage = {stage} AND after = {epoch + 1} AND domain IS NULL AND difficulty IS NULL"
        evaluated = rows(shown, f"SELECT pass_at_1, low, high FROM evaluations WHERE {after}")
        for row in evaluated:
            assert f"all {row['pass_at_1']:.3f} ({row['low']:.3f}-{row['high']:.3f})" in text
        assert ("pass@1" in text) == bool(evaluated)


def test_the_tables_of_resampling_are_the_decisions(shown: Shown) -> None:
    for (stage, epoch), told, all_of_them in zip(
        epochs(shown), shown.artifacts["resampling"], shown.artifacts["decisions"], strict=True
    ):
        decided = rows(shown, f"FROM decisions WHERE stage = {stage} AND epoch = {epoch + 1}")
        counted = Counter((row["bucket"], row["keep"]) for row in decided)
        assert {(row["bucket"], row["keep"]): row["prompts"] for row in json.loads(told)} == counted
        assert {row["prompt_id"] for row in json.loads(all_of_them)} == {row["prompt_id"] for row in decided}


def test_the_text_of_the_run_has_its_totals_and_pass_at_1_with_intervals(shown: Shown) -> None:
    (text,) = shown.artifacts["summary"]
    status = read_status(shown.run)
    assert f"{status.policy_versions} updates from {status.rollouts:,} rollouts ({status.tokens:,} tokens)" in text
    last = {row["stage"]: row["after"] for row in status.evaluations}
    assert set(last) == {0, 1, 2}
    for domain in (None, "math", "code"):
        told = [
            f"{row['pass_at_1']:.3f} ({row['low']:.3f}-{row['high']:.3f})"
            for row in status.evaluations
            if row["class"] is None and row["domain"] == domain and row["after"] == last[row["stage"]]
        ]
        assert f"| {domain or 'all'} | {' | '.join(told)} |" in text
    for stage in status.stages:
        assert stage["ended"] in text


def test_the_links_lead_to_the_report_and_the_store(shown: Shown) -> None:
    (report,), (store,) = shown.artifacts["report"], shown.artifacts["store"]
    places = [Path(unquote(urlparse(re.search(r"\((.*)\)", link)[1]).path)) for link in (report, store)]
    assert places == [shown.run.report, shown.run.directory]
    assert shown.run.report.is_file()


def test_every_line_of_the_terminal_is_in_the_log_once(shown: Shown, undisturbed: UndisturbedRun) -> None:
    lines = undisturbed.output.splitlines()
    assert len(shown.lines) > 10
    assert Counter(shown.lines) == Counter(lines[: len(shown.lines)])


def test_every_flow_run_is_found_by_its_runs_name_its_stage_and_its_epoch(shown: Shown) -> None:
    name = shown.run.name
    for flow_run in shown.flow_runs:
        assert f"run:{name}" in flow_run.tags
        found = re.fullmatch(rf"{name} · stage (\d) · epoch (\d+) · (rollout|update|resample)", flow_run.name)
        if found:
            assert {f"stage:{found[1]}", f"epoch:{found[2]}"} <= set(flow_run.tags)
        else:
            assert re.fullmatch(rf"{name}( · .*(prepare|transition|evaluate))?", flow_run.name)


def test_what_the_api_does_not_take_fails_no_work(pipeline: Pipeline, undisturbed: UndisturbedRun) -> None:
    done = pipeline.python(HERE / "unshown_run.py", undisturbed.store, undisturbed.name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["went on", "Completed"]
