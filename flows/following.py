"""A run that deployments train, seen from outside: having it scheduled, and waiting for its end."""

import time

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun

from flows.deployed import POLL_SECONDS, Followed, ask_for, orchestrator
from flows.execution import run_tags
from flows.progress import announce
from flows.request import RunRequest
from flows.runs import Run, RunError
from flows.stage_lines import StageLines
from flows.status import is_finished

DEPLOYMENT = "srpo/srpo"


def schedule(run: Run) -> FlowRun:
    """The deployed flow run that trains the run: the one that does, the last one that did, again, or a new one.

    Raises RunError when the deployment is not there.
    """
    with get_client(sync_client=True) as client:
        flow_run = orchestrator(client, run)
        state = None if flow_run is None else flow_run.state
        if flow_run is not None and state is not None and not state.is_completed():
            followed = Followed(client, flow_run)
            if _is_over(followed, run):
                followed.begin_again()
            return followed.flow_run
    request = RunRequest(name=run.name, store=str(run.store.absolute()), settings=None)
    parameters = {"request": request.model_dump()}
    return ask_for(DEPLOYMENT, parameters=parameters, flow_run_name=run.name, tags=run_tags(run))


def _is_over(followed: Followed, run: Run) -> bool:
    """Whether the run's flow run has ended, or says that it runs or starts and has no process.

    One that has only just begun holds no lock either: waits until it does, or would.
    """
    while (followed.state.is_running() or followed.state.is_pending()) and not run.is_locked:
        if followed.is_left_behind(lambda: run.is_locked):
            said = "starts" if followed.state.is_pending() else "runs"
            announce(f"flow run {followed.name} says that it {said}, and has no process: it begins again")
            return True
        time.sleep(POLL_SECONDS)
        followed.refresh()
    return followed.state.is_final()


def ended_badly(run: Run) -> bool:
    """Whether the deployed flow run that trained the run last, if any did, has ended but not completed."""
    with get_client(sync_client=True) as client:
        flow_run = orchestrator(client, run)
    state = None if flow_run is None else flow_run.state
    return state is not None and state.is_final() and not state.is_completed()


def follow(run: Run, flow_run: FlowRun) -> None:
    """Tell what its stages say until the run's flow run has completed. Raises RunError when it ends otherwise."""
    with get_client(sync_client=True) as client:
        followed, lines = Followed(client, flow_run), StageLines(client)
        lines.tell_new(flow_run)
        # One that was told dead, since nothing was heard of it for a while, holds the run as long as it lives.
        while not followed.state.is_final() or (followed.state.is_crashed() and run.is_locked):
            time.sleep(POLL_SECONDS)
            followed.refresh()
            lines.tell_new(followed.flow_run)
    state = followed.state
    if not state.is_completed() and not (state.is_crashed() and is_finished(run)):  # it says so itself in a moment
        raise RunError(f"flow run {followed.name} ended {state.name}: {state.message}")
