"""Runs that workers train, stage by stage: killed, retried, cancelled, and the same as in one process."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from pipeline_process import HERE, Pipeline
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import Cancelling
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
    assert there() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_serve_ends_it_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    with serve(tmp_path) as served:
        mine = f"PREFECT_HOME={tmp_path / 'prefect'}"
        assert len(processes(mine)) >= 9  # itself, the server, three workers, each of these in its group
        served.process.send_signal(number)
        eventually(lambda: not processes(mine))
    assert served.process.returncode == (0 if number == signal.SIGINT else -signal.SIGKILL)
