"""Flow runs that a killed process left behind: they would show as running for ever."""

from contextlib import AbstractContextManager
from typing import Any

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import Crashed

from flows.runs import Run


def run_tag(run: Run) -> AbstractContextManager[Any]:
    """Flow runs that begin in the block can be found as this run's."""
    return tags(_tag(run))


def close_stale_flow_runs(run: Run) -> None:
    """Mark the run's flow runs that still count as running as crashed. Call it while the run is locked."""
    unended = {"tags": {"all_": [_tag(run)]}, "state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    with get_client(sync_client=True) as client:
        for flow_run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(unended)):
            client.set_flow_run_state(
                flow_run.id, Crashed(message="its process was killed; the run went on"), force=True
            )


def _tag(run: Run) -> str:
    return f"srpo:{run.directory.absolute()}"
