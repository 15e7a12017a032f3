"""What a worker tells late of an attempt that is over must not end the next one; what a person does must."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pipeline_process import Pipeline
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Crashed, Pending, Running, State

from flows import deployed
from flows.deployed import Followed
from flows.execution import Stage
from flows.runs import Run


@flow
def stage() -> None:
    """Never called: only its flow runs' states matter here."""


@pytest.fixture
def client(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    monkeypatch.setattr(deployed, "_SETTLE_SECONDS", 0.0)
    url = pipeline.environment["PREFECT_API_URL"]
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def ended_once(client: SyncPrefectClient, end: State[Any]) -> Followed:
    """A flow run that ran, and ended so."""
    flow_run = client.create_flow_run(stage)
    states: list[State[Any]] = [Pending(), Running(), end]
    for state in states:
        client.set_flow_run_state(flow_run.id, state, force=True)
    return Followed(client, client.read_flow_run(flow_run.id))


LATE = [
    pytest.param(lambda: Crashed(message="Process exited with status code: -9"), id="crashed"),
    pytest.param(lambda: Cancelled(message="Flow run was cancelled successfully."), id="cancelled"),
]


@pytest.mark.parametrize("end", LATE)
def test_an_end_that_a_worker_tells_again_does_not_end_the_attempt_after(client: SyncPrefectClient, end: Any) -> None:
    followed = ended_once(client, end())
    followed.begin_again()
    client.set_flow_run_state(followed.flow_run.id, end(), force=True)  # told late
    followed.refresh()
    assert followed.state.is_scheduled()


@pytest.mark.parametrize("end", LATE)
def test_an_attempt_that_ends_badly_itself_is_not_begun_again(client: SyncPrefectClient, end: Any) -> None:
    followed = ended_once(client, end())
    followed.begin_again()
    states: list[State[Any]] = [Pending(), Running(), end()]
    for state in states:
        client.set_flow_run_state(followed.flow_run.id, state, force=True)
    followed.refresh()
    assert followed.state.is_final()


def test_a_flow_run_that_a_person_cancels_before_it_begins_stays_cancelled(client: SyncPrefectClient) -> None:
    followed = ended_once(client, Crashed())
    followed.begin_again()
    client.set_flow_run_state(followed.flow_run.id, Cancelled(), force=True)
    followed.refresh()
    assert followed.state.is_cancelled()


def test_what_ends_before_it_begins_again_and_again_is_left_at_last(client: SyncPrefectClient) -> None:
    followed = ended_once(client, Crashed())
    for _ in range(10):
        client.set_flow_run_state(followed.flow_run.id, Crashed(), force=True)
        followed.refresh()
    assert followed.state.is_crashed()


def test_a_stage_that_is_told_dead_has_not_ended_while_its_process_is_at_work(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    """As after an outage of the API that was longer than the automation's patience."""
    run = Run(tmp_path, "run")
    run.directory.mkdir()
    child = deployed.Child(client, Stage(stage, run, {}, lambda: False), ended_once(client, Crashed()))
    with run.locked_stage(stage.name, lambda: None):
        assert not child.has_ended
    assert child.has_failed


@pytest.mark.parametrize("pool", ["process", "kubernetes"])
def test_a_flow_run_that_was_taken_and_never_began_is_left_behind_where_it_would_have_begun_at_once(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    """As after a machine died together with its worker; in a cluster it may still wait for its image."""
    name = f"{pool}-{uuid4().hex[:8]}"
    client.create_work_pool(WorkPoolCreate(name=name, type=pool))
    deployment = client.create_deployment(client.create_flow(stage), name, work_pool_name=name)
    flow_run = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(flow_run.id, Pending(), force=True)
    followed = Followed(client, client.read_flow_run(flow_run.id))
    assert not followed.is_left_behind(lambda: False)
    monkeypatch.setattr(deployed, "_START_SECONDS", 0.0)
    assert followed.is_left_behind(lambda: False) == (pool == "process")
    assert not followed.is_left_behind(lambda: True)
