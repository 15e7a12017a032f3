"""What a terminal that waits for deployments prints, from flow runs and logs of a real Prefect server."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from pipeline_process import Pipeline
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running

from flows.stage_lines import StageLines


@flow
def stage() -> None:
    """Stand for any."""


@pytest.fixture
def client(pipeline: Pipeline) -> Iterator[SyncPrefectClient]:
    url = pipeline.environment["PREFECT_API_URL"]
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def make(client: SyncPrefectClient, name: str, tag: str) -> FlowRun:
    """A flow run of a deployment that no worker takes."""
    deployment = client.create_deployment(client.create_flow(stage), name="stage")
    return client.create_flow_run_from_deployment(deployment, name=name, tags=[tag])


def go_on(client: SyncPrefectClient, flow_run: FlowRun, state: Any) -> None:
    client.set_flow_run_state(flow_run.id, state, force=True)


def log(client: SyncPrefectClient, flow_run: UUID, name: str, message: str) -> None:
    client.create_logs(
        [LogCreate(name=name, level=20, message=message, timestamp=datetime.now(UTC), flow_run_id=flow_run)]
    )


def test_beginnings_lines_and_ends_are_told_once_and_in_order(
    client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = f"srpo:/{uuid4()}"
    run, old, new = (make(client, name, tag) for name in ("run", "run · prepare", "run · rollout"))
    other = make(client, "another run's", f"srpo:/{uuid4()}")
    go_on(client, old, Completed())
    lines = StageLines(client)
    lines.tell_new(run)
    assert capsys.readouterr().out == ""  # nothing has begun, and what had ended is no news

    go_on(client, new, Running())
    go_on(client, other, Running())
    lines.tell_new(run)
    lines.tell_new(run)
    assert capsys.readouterr().out.splitlines() == ["run · rollout: begins"]

    log(client, new.id, "prefect.task_runs.srpo", "step 1: fine")
    log(client, new.id, "prefect.flow_runs", "Created task run")
    log(client, other.id, "prefect.flow_runs.srpo", "not ours")
    go_on(client, new, Completed())
    lines.tell_new(run)
    lines.tell_new(run)
    said, ended = capsys.readouterr().out.splitlines()
    assert said == "step 1: fine"
    assert ended.startswith("run · rollout: Completed")
