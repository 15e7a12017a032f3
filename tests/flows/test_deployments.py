"""Runs that workers train, stage by stage: killed, retried, cancelled, and the same as in one process."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pipeline_process import BRIEF, Pipeline
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import Cancelling, Crashed, Pending, Scheduled
from served_runs import Served, eventually, processes, serve
from test_resume import assert_same_run, nameless, tables
from test_secrets import SECRETS, found_secrets

from flows.deploy import automations
from flows.runs import Run, open_run

pytestmark = pytest.mark.deployed


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = {"PREFECT_SERVER_API_AUTH_STRING": SECRETS["PREFECT_API_AUTH_STRING"]}
    with serve(tmp_path_factory.mktemp("served"), **SECRETS, **server) as served:
        yield served


def test_a_run_whose_stages_workers_server_and_orchestrator_are_killed_ends_like_an_inline_one(
    served: Served, inline: Run
) -> None:
    run = served.start("brief", BRIEF)
    stage = "brief · stage 1 · epoch 0 · rollout"
    killed = served.until(stage, "RUNNING")
    eventually(lambda: list(served.store.glob("brief/data/**/*.parquet")))  # in the middle of its work
    served.kill(killed)
    served.until(stage, "CRASHED")
    failed = served.until("brief", "FAILED")
    assert failed.state is not None
    assert stage in (failed.state.message or "")
    # The Retry button of the stage, by the command line: the stage goes on, and with it the run that needs it.
    command = [sys.executable, "-m", "prefect", "--no-prompt", "flow-run", "retry", str(killed.id)]
    subprocess.run(command, env=served.pipeline.environment, check=True)
    served.until("brief · stage 1 · epoch 0 · update", "RUNNING")
    served.kill_part("worker start --pool train-gpu")  # its flow run goes on, and nobody needs to do anything
    evaluated = "brief · stage 1 · after 1 epochs · evaluate"
    with _crashed_sooner(served, evaluated) as flow_run:
        # Together with its worker, so that nobody tells: the automation has to.
        served.kill_part("worker start --pool rollout-gpu")
        served.kill(flow_run)
        served.until(evaluated, "CRASHED")
    again = served.flow_run(stage)
    assert again is not None
    assert (again.id, again.run_count) == (killed.id, 2)
    served.retry(served.until("brief", "FAILED"))
    served.until("brief · stage 2 · epoch 0 · rollout", "RUNNING")
    served.kill_part("flows.locked_database:create_app")  # nobody needs to do anything, either
    served.until("brief · stage 2 · epoch 0 · resample", "RUNNING")
    served.kill(run)
    served.until("brief", "CRASHED")
    resumed = served.pipeline.srpo("resume", "brief", "--store", served.store, "--mode", "deployments")
    assert resumed.returncode == 0, resumed.stderr
    ended = served.until("brief", "COMPLETED")
    assert (ended.id, ended.run_count) == (run.id, 4)
    assert_same_run(open_run(served.store, "brief"), inline)
    assert open_run(served.store, "brief").report.is_file()
    # As if it had been killed when nothing was left but to say so.
    served.client.set_flow_run_state(run.id, Crashed(), force=True)
    resumed = served.pipeline.srpo("resume", "brief", "--store", served.store, "--mode", "deployments")
    assert resumed.returncode == 0, resumed.stderr
    assert "run brief is done" not in resumed.stdout
    assert served.until("brief", "COMPLETED").run_count == 5
    again = served.pipeline.srpo("resume", "brief", "--store", served.store, "--mode", "deployments")
    assert "run brief is done" in again.stdout
    assert served.until("brief", "COMPLETED").run_count == 5


@contextmanager
def _crashed_sooner(served: Served, name: str) -> Iterator[FlowRun]:
    """The flow run of this name, at work; it is told dead by the automation as it is deployed, but for its patience.

    That would take 90 s. Ten are less than a flow run takes to tell that it lives: in the block it will be told dead.
    """
    flow_run = served.until(name, "SCHEDULED", "PENDING", "RUNNING")
    dead, _ = automations()
    about = ResourceSpecification({"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"})
    trigger = dead.trigger.model_copy(update={"within": timedelta(seconds=10), "match": about})
    quick = served.client.create_automation(dead.model_copy(update={"name": "quick", "trigger": trigger}))
    served.until(name, "RUNNING", "CRASHED")
    yield flow_run
    served.client.delete_automation(quick)


def test_a_cancelled_run_takes_its_stages_with_it_goes_on_and_is_taken_over_inline(
    served: Served, pipeline: Pipeline, tmp_path: Path
) -> None:
    settings = tmp_path / "lag.yaml"
    settings.write_text(BRIEF.read_text().replace("rollout: {", "rollout: {max_staleness: 1, "))
    run = served.start("lag", settings)
    stages = [f"lag · stage 1 · epoch 0 · {kind}" for kind in ("rollout", "update")]
    begun = [served.until(name, "RUNNING") for name in stages]
    served.client.set_flow_run_state(run.id, Cancelling())
    served.retry(served.until("lag", "CANCELLED"))  # at once: its stages may still be ending
    for name in ("lag", *stages):
        served.until_attempt(name, 2)
    refused = served.pipeline.srpo("resume", "lag", "--store", served.store)
    assert refused.returncode == 1
    assert "another process" in refused.stderr
    served.kill(run)
    resumed = served.pipeline.srpo("resume", "lag", "--store", served.store)
    assert resumed.returncode == 0, resumed.stderr
    for each in begun:
        served.until(each.name, "CANCELLED", "COMPLETED")
    verified = served.pipeline.srpo("history", "verify", "lag", "--store", served.store)
    assert verified.returncode == 0, verified.stdout
    undisturbed = pipeline.srpo("run", settings, "--store", tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same_run(open_run(served.store, "lag"), open_run(tmp_path, "lag"))
    rows = open_run(served.store, "lag").history.sql("SELECT DISTINCT staleness FROM staleness").to_pylist()
    assert {row["staleness"] for row in rows} == {0, 1}


def test_two_runs_share_the_places_and_end_like_inline_ones_though_an_update_comes_back_at_the_worst_moment(
    served: Served, inline: Run, pipeline: Pipeline, tmp_path: Path
) -> None:
    settings = tmp_path / "two.yaml"
    brief = BRIEF.read_text().replace("keep_policies: 2", "keep_policies: 4")
    settings.write_text(brief.replace("prompts_per_step: 8", "prompts_per_step: 4, max_staleness: 2"))
    stage = "{} · stage 1 · epoch 0 · {}"
    served.start("one", BRIEF)
    served.until(stage.format("one", "rollout"), "RUNNING")
    served.start("two", settings)
    update = served.until(stage.format("one", "update"), "RUNNING")
    served.client.update_work_pool("train-gpu", WorkPoolUpdate(is_paused=True))
    served.kill(update)
    served.until("one", "FAILED")
    served.until(stage.format("two", "rollout"), "RUNNING")
    served.until(stage.format("two", "update"), "SCHEDULED")
    # Each run gets one pool's only place, and waits for the other's: the retried update is taken first.
    early: Any = Scheduled(name="AwaitingRetry", scheduled_time=datetime.now(UTC) - timedelta(hours=1))
    served.client.set_flow_run_state(update.id, early, force=True)
    served.client.update_work_pool("train-gpu", WorkPoolUpdate(is_paused=False))
    served.until_attempt(update.name, 2)
    for name in ("one", "two"):
        served.until(name, "COMPLETED")
    again = served.flow_run(update.name)
    assert again is not None
    assert again.run_count > 2  # the second gave its place back
    assert nameless(open_run(served.store, "one")) == nameless(inline)
    undisturbed = pipeline.srpo("run", settings, "--store", tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same_run(open_run(served.store, "two"), open_run(tmp_path, "two"))
    rows = open_run(served.store, "two").history.sql("SELECT DISTINCT staleness FROM staleness").to_pylist()
    assert {row["staleness"] for row in rows} == {0, 1, 2}


def test_a_run_beyond_its_limit_fails_with_its_message_goes_on_once_it_is_raised_and_nothing_knows_a_secret(
    served: Served, inline: Run, tmp_path: Path
) -> None:
    settings = tmp_path / "guarded.yaml"
    settings.write_text(BRIEF.read_text() + "guards: {max_tokens: 1}\n")
    served.start("guarded", settings)
    for name in ("guarded · stage 1 · epoch 0 · rollout", "guarded"):
        failed = served.until(name, "FAILED")
        assert failed.state is not None
        assert "run guarded stops at guards.max_tokens: " in (failed.state.message or "")
        assert failed.run_count == 1
    limit = ("--set", "guards.max_tokens=null")
    resumed = served.pipeline.srpo("resume", "guarded", "--store", served.store, "--mode", "deployments", *limit)
    assert resumed.returncode == 0, resumed.stderr
    run = open_run(served.store, "guarded")
    assert [row["setting"] for row in run.history.read("changes").to_pylist()] == ["guards.max_tokens"]
    assert nameless(run, "changes") == nameless(inline, "changes")
    # Parameters, logs, artifacts and messages of states are in the database; the server and the workers know them all.
    assert list(served.home.glob("prefect.db*"))
    assert found_secrets(served.store, served.home) == []


def test_what_is_scheduled_for_a_store_does_its_work(served: Served, inline: Run, tmp_path: Path) -> None:
    store = Path(shutil.copytree(inline.store, tmp_path / "store"))
    begin = {
        "evaluate newest/nightly": "evaluate the newest policies of",
        "maintain/weekly": "maintain the histories of",
    }
    for name in begin:
        deployment = served.client.read_deployment_by_name(name)
        assert deployment.parameters == {"store": str(served.store)}
        served.client.create_flow_run_from_deployment(deployment.id, parameters={"store": str(store)})
    for told in begin.values():
        served.until(f"{told} {store}", "COMPLETED")
    run = open_run(store, "brief")
    newest = max(run.history.read("policies")["version"].to_pylist())
    (evaluated,) = store.glob("eval-brief-*")
    assert f"{newest}" in evaluated.name
    assert list(store.glob("brief/compacted/**/*.parquet"))
    assert tables(run) == tables(inline)


def test_wrong_settings_are_refused_with_their_place_and_not_tried_again(served: Served, tmp_path: Path) -> None:
    typo = tmp_path / "typo.yaml"
    typo.write_text("rollout: {group_sise: 4}\n")
    served.start("wrong", typo)
    failed = served.until("wrong", "FAILED")
    assert failed.state is not None
    assert "rollout.group_sise" in (failed.state.message or "")
    assert failed.run_count == 1
    assert not (served.store / "wrong").exists()


def test_deploying_again_changes_nothing(served: Served) -> None:
    def there() -> list[set[str]]:
        client = served.client
        return [
            {each.name for each in client.read_deployments()},
            {each.name for each in client.read_work_pools()},
            {each.name for each in client.read_automations()},
        ]

    before = there()
    again = served.pipeline.srpo("deploy", "--store", served.store)
    assert again.returncode == 0, again.stderr
    assert "made" not in again.stdout
    assert "changed" not in again.stdout  # an automation that is written again forgets what it waits for
    assert there() == before


def test_what_a_machine_left_at_work_when_it_went_down_goes_on_at_once_when_it_is_served_again(
    inline: Run, tmp_path: Path
) -> None:
    stage, taken = (f"brief · stage 1 · epoch 0 · {kind}" for kind in ("rollout", "update"))
    with serve(tmp_path) as served:
        served.client.update_work_pool("train-gpu", WorkPoolUpdate(is_paused=True))
        served.start("brief", BRIEF)
        served.until(stage, "RUNNING")
        served.until(taken, "SCHEDULED")
        eventually(lambda: list(served.store.glob("brief/data/**/*.parquet")))
        for process in processes(f"PREFECT_HOME={served.home}"):
            os.kill(process, signal.SIGKILL)  # nobody is left who could tell of a death
    with serve(tmp_path) as served:
        for name in ("brief", stage):
            served.until(name, "RUNNING")
        # As if its worker had just taken it.
        served.client.set_flow_run_state(served.until(taken, "SCHEDULED").id, Pending(), force=True)
        served.client.update_work_pool("train-gpu", WorkPoolUpdate(is_paused=False))
        resumed = served.pipeline.srpo("resume", "brief", "--store", served.store, "--mode", "deployments")
        assert resumed.returncode == 0, resumed.stderr
        assert "has no process: it begins again" in resumed.stdout
        for name in ("brief", stage):
            assert served.until(name, "COMPLETED").run_count == 2
    assert_same_run(open_run(served.store, "brief"), inline)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_serve_ends_it_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    with serve(tmp_path) as served:
        mine = f"PREFECT_HOME={tmp_path / 'prefect'}"
        assert len(processes(mine)) >= 9  # itself, the server, three workers, each of these in its group
        served.process.send_signal(number)
        eventually(lambda: not processes(mine))
    assert served.process.returncode == (0 if number == signal.SIGINT else -signal.SIGKILL)
