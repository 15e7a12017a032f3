"""A deployed stage that nobody will ever go on with stops; as long as somebody may, it waits."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pipeline_process import Pipeline
from prefect import State, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed, Running, Scheduled

from flows import working
from flows.deployed import stage_key
from flows.runs import Run, create_run
from flows.working import Partner, PlaceGivenBackError
from srpo_core.config import Settings

PLACE = {"stage": 1, "epoch": 0}
LONG = 2 * working._ALONE_SECONDS


@flow
def stage() -> None:
    """A flow to make flow runs of."""


@pytest.fixture
def client(pipeline: Pipeline) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: pipeline.environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        yield client


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path, f"alone-{uuid4().hex[:8]}", Settings())


@pytest.fixture
def watch(client: SyncPrefectClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> working._Watch:
    """What an update asks that has been at work for long, and looks at the API each time it is asked."""
    monkeypatch.setattr(working, "_WATCH_SECONDS", 0.0)
    flow_run = client.create_flow_run(stage, state=Running())
    watch = working._Watch(run, flow_run, Partner("rollout", PLACE, goes_first=True))
    watch._in_company -= LONG
    return watch


def partner(client: SyncPrefectClient, run: Run, state: State) -> None:
    """The stage that the update waits for was begun, and its flow run is in this state."""
    deployment = client.create_deployment(client.create_flow(stage), run.name)
    key = stage_key(run.directory, "rollout", PLACE)
    begun = client.create_flow_run_from_deployment(deployment, idempotency_key=key)
    client.set_flow_run_state(begun.id, state, force=True)


def test_without_its_run_and_with_a_partner_that_was_never_begun_it_stops_after_a_while(
    watch: working._Watch,
) -> None:
    assert watch()
    watch._in_company += LONG
    assert not watch()


def test_while_its_run_is_at_work_it_waits_for_the_partner_to_be_begun(watch: working._Watch, run: Run) -> None:
    with run.locked():
        assert not watch()
    assert not watch()  # since the run was there a moment ago


def test_while_its_partner_is_at_work_it_waits_whatever_the_api_says_of_it(
    watch: working._Watch, run: Run, client: SyncPrefectClient
) -> None:
    partner(client, run, Crashed())
    with run.locked_stage("rollout", pytest.fail):
        assert not watch()
    assert watch()


def test_while_its_run_is_at_work_a_partner_that_ended_before_it_began_does_not_stop_it(
    watch: working._Watch, run: Run, client: SyncPrefectClient
) -> None:
    """As after the server went down while the partner's process was starting: the run begins it again."""
    partner(client, run, Crashed())
    with run.locked():
        assert not watch()
    assert watch()


def test_it_gives_its_place_back_to_a_partner_that_is_queued(
    watch: working._Watch, run: Run, client: SyncPrefectClient
) -> None:
    partner(client, run, Scheduled())
    with pytest.raises(PlaceGivenBackError):
        watch()


def test_a_cancelled_stage_stops_and_one_that_was_told_dead_goes_on(
    watch: working._Watch, run: Run, client: SyncPrefectClient
) -> None:
    with run.locked():
        client.set_flow_run_state(watch._flow_run, Crashed(), force=True)
        assert not watch()
        client.set_flow_run_state(watch._flow_run, Cancelling(), force=True)
        assert watch()
