"""Runs that workers train, stage by stage: killed, retried, cancelled, and the same as in one process."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pipeline_process import HERE, Pipeline
from prefect.events import emit_event
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import Cancelling, Running, Scheduled
from served_runs import Served, eventually, processes, serve
from test_resume import assert_same_run

from flows.deploy import automations
from flows.runs import Run, open_run

pytestmark = pytest.mark.deployed
BRIEF = HERE / "brief.yaml"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="module")
def inline(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that one process trains without disturbance."""
    store = tmp_path_factory.mktemp("inline")
    done = pipeline.srpo("run", BRIEF, "--run-id", "brief", "--store", store)
    assert done.returncode == 0, done.stderr
    return open_run(store, "brief")


def test_a_deployed_run_whose_stage_and_orchestrator_are_killed_and_retried_ends_like_an_inline_one(
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
    served.until("brief · stage 2 · epoch 0 · rollout", "RUNNING")
    again = served.flow_run(stage)
    assert again is not None
    assert (again.id, again.run_count) == (killed.id, 2)
    served.kill(run)
    served.until("brief", "CRASHED")
    resumed = served.pipeline.srpo("resume", "brief", "--store", served.store, "--mode", "deployments")
    assert resumed.returncode == 0, resumed.stderr
    ended = served.until("brief", "COMPLETED")
    assert ended.id == run.id
    assert ended.run_count == 3
    assert_same_run(open_run(served.store, "brief"), inline)
    assert open_run(served.store, "brief").report.is_file()


def test_a_cancelled_run_takes_its_stages_with_it_goes_on_and_is_taken_over_inline(
    served: Served, pipeline: Pipeline, tmp_path: Path
) -> None:
    settings = tmp_path / "lag.yaml"
    settings.write_text(BRIEF.read_text().replace("rollout: {", "rollout: {max_staleness: 1, "))
    run = served.start("lag", settings)
    stages = [f"lag · stage 1 · epoch 0 · {kind}" for kind in ("rollout", "update")]
    begun = [served.until(name, "RUNNING") for name in stages]
    served.client.set_flow_run_state(run.id, Cancelling())
    for name in (*stages, "lag"):
        served.until(name, "CANCELLED")
    eventually(lambda: not any(processes(f"PREFECT__FLOW_RUN_ID={each.id}") for each in (run, *begun)))
    assert not open_run(served.store, "lag").is_locked
    served.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)  # as the UI's button does
    rollout = served.until("lag · stage 2 · epoch 0 · rollout", "RUNNING")
    refused = served.pipeline.srpo("resume", "lag", "--store", served.store)
    assert refused.returncode == 1
    assert "another process" in refused.stderr
    served.kill(run)
    resumed = served.pipeline.srpo("resume", "lag", "--store", served.store)
    assert resumed.returncode == 0, resumed.stderr
    served.until(rollout.name, "CANCELLED", "COMPLETED")
    undisturbed = pipeline.srpo("run", settings, "--store", tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same_run(open_run(served.store, "lag"), open_run(tmp_path, "lag"))
    rows = open_run(served.store, "lag").history.sql("SELECT DISTINCT staleness FROM staleness").to_pylist()
    assert {row["staleness"] for row in rows} == {0, 1}


def test_wrong_settings_are_refused_with_their_place_and_not_tried_again(served: Served, tmp_path: Path) -> None:
    typo = tmp_path / "typo.yaml"
    typo.write_text("rollout: {group_sise: 4}\n")
    served.start("wrong", typo)
    failed = served.until("wrong", "FAILED")
    assert failed.state is not None
    assert "rollout.group_sise" in (failed.state.message or "")
    assert failed.run_count == 1
    assert not (served.store / "wrong").exists()


def test_a_flow_run_that_gives_no_sign_of_life_any_more_is_crashed(served: Served) -> None:
    """The automation as it is deployed, but for its patience, which would take 90 s, and for whom it is about."""
    deployment = served.client.read_deployment_by_name("evaluate/evaluate")
    run = served.client.create_flow_run_from_deployment(deployment.id, parameters={}, name="dead", state=Running())
    about = f"prefect.flow-run.{run.id}"
    dead, _ = automations()
    trigger = dead.trigger.model_copy(
        update={"within": timedelta(seconds=10), "match": ResourceSpecification({"prefect.resource.id": about})}
    )
    served.client.create_automation(dead.model_copy(update={"name": "quick", "trigger": trigger}))
    tag = {"prefect.resource.id": "prefect.tag.srpo", "prefect.resource.role": "tag"}
    emit_event("prefect.flow-run.heartbeat", resource={"prefect.resource.id": about}, related=[tag])
    assert served.until("dead", "CRASHED").id == run.id


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
    assert there() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_serve_ends_it_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    with serve(tmp_path) as served:
        mine = f"PREFECT_HOME={tmp_path / 'prefect'}"
        assert len(processes(mine)) >= 9  # itself, the server, three workers, each of these in its group
        served.process.send_signal(number)
        eventually(lambda: not processes(mine))
    assert served.process.returncode == (0 if number == signal.SIGINT else -signal.SIGKILL)
