"""Flow runs that an earlier attempt left behind: they would show as running for ever, or go on working."""

from typing import Any

from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.context import FlowRunContext
from prefect.states import Crashed

from flows.deployed import cancel
from flows.execution import Mode, directory_tag
from flows.faults import patiently
from flows.runs import Run


def close_stale_flow_runs(run: Run, mode: Mode) -> None:
    """Mark what a killed process left as running as crashed. Call it while the run is locked.

    Deployed stages may be alive without who asked for them: they are waited for in the mode `deployments`, and
    cancelled when this process takes over their work.
    """
    unended = {
        "tags": {"all_": [directory_tag(run.directory)]},
        "state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}},
    }
    context = FlowRunContext.get()
    own = context.flow_run.id if context is not None and context.flow_run is not None else None
    with get_client(sync_client=True) as client:
        for flow_run in patiently(client.read_flow_runs, flow_run_filter=FlowRunFilter.model_validate(unended)):
            if flow_run.id == own:
                continue
            if flow_run.deployment_id is None:
                state: State[Any] = Crashed(message="its process was killed; the run went on")
                patiently(client.set_flow_run_state, flow_run.id, state, force=True)
            elif mode == "inline":
                cancel(client, flow_run.id)
