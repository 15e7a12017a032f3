"""A run of deployments in a terminal: what its stages say, and when each begins and ends, as the Prefect API tells."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort

from flows.faults import patiently
from flows.progress import LOGGER, announce

_LATE = timedelta(seconds=30)  # lines come in batches, from several processes
_PAGE = 200


class StageLines:
    """Prints what is new of a run's flow runs at each look."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        self._newest = datetime.now(UTC)
        self._states: dict[UUID, str] | None = None
        self._lines: set[UUID] = set()

    def tell_new(self, orchestrator: FlowRun) -> None:
        """Print what happened since the last look in the run that this flow run trains: beginnings, lines, ends."""
        tags = [tag for tag in orchestrator.tags if tag.startswith("srpo:")]
        if not tags:
            return  # it has not begun, or has only just been asked for
        found = FlowRunFilter.model_validate({"tags": {"all_": tags}, "deployment_id": {"is_null_": False}})
        flow_runs = [each for each in self._pages("read_flow_runs", flow_run_filter=found) if each.state is not None]
        changed = self._changed(flow_runs)
        for flow_run in changed:
            if flow_run.state.is_running():
                announce(f"{flow_run.name}: begins")
        self._tell_lines(flow_runs)
        for flow_run in changed:
            if flow_run.state.is_final():
                announce(f"{flow_run.name}: {flow_run.state.name}, {flow_run.total_run_time.total_seconds():.0f} s")

    def _changed(self, flow_runs: list[Any]) -> list[Any]:
        """The flow runs in another state than before; what had ended before the first look is no news."""
        before, self._states = self._states, {each.id: each.state.type.value for each in flow_runs}
        if before is None:
            return [each for each in flow_runs if not each.state.is_final()]
        return [each for each in flow_runs if before.get(each.id) != self._states[each.id]]

    def _tell_lines(self, flow_runs: list[Any]) -> None:
        since = {"timestamp": {"after_": self._newest - _LATE}}
        wanted = LogFilter.model_validate({"flow_run_id": {"any_": [each.id for each in flow_runs]}} | since)
        for log in self._pages("read_logs", log_filter=wanted, sort=LogSort.TIMESTAMP_ASC):
            if log.name.endswith(f".{LOGGER}") and log.id not in self._lines:
                self._lines.add(log.id)
                self._newest = max(self._newest, log.timestamp)
                announce(log.message)

    def _pages(self, read: str, **wanted: Any) -> list[Any]:
        found: list[Any] = []
        while page := patiently(getattr(self._client, read), limit=_PAGE, offset=len(found), **wanted):
            found += page
        return found
