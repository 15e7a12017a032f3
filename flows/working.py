"""How a stage's flow begins, in whatever process: it has its kind of work alone, and learns when it must stop."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext, TagsContext

from flows.artifacts import wait_until_sent
from flows.deployed import Followed, ended_badly_since, orchestrator, stage_key
from flows.faults import is_transient
from flows.kept import engines_kept
from flows.prefect_server import end_threads_at_exit
from flows.progress import announce
from flows.runs import Run, open_run
from flows.together import check_stop, stage_begins, watching

Partner = tuple[str, Mapping[str, int]]
"""The kind and the place of a stage that another one waits for."""

_WATCH_SECONDS = 5.0
_LOCK_SECONDS = 0.2


@contextmanager
def working(store: str, run: str, kind: str, *, partner: Partner | None = None) -> Iterator[Run]:
    """The run, in whose work of this `kind` no other process takes part during the block.

    A stage of a deployment also learns when it was cancelled, or when its `partner`, without which it would wait for
    ever, ended badly; and when a person had it begin again, the run that needs it begins again with it.
    Raises StageStoppedError from `check_stop` and `wait_until` when it must stop.
    """
    stage_begins()
    the_run = open_run(Path(store), run)
    flow_run = deployed_flow_run()
    with ExitStack() as stack:
        # Each task run with tags asks the server for a slot of each, a write to its database: tags are the flow run's.
        stack.enter_context(TagsContext(current_tags=set()))
        if flow_run is not None:
            end_threads_at_exit()
            stack.callback(wait_until_sent)
            stack.enter_context(engines_kept())
            if flow_run.run_count > 1:
                _bring_back_orchestrator(the_run)
            stack.enter_context(watching(_Watch(the_run, flow_run, partner)))
        stack.enter_context(the_run.locked_stage(kind, Patience(kind)))
        yield the_run


def deployed_flow_run() -> FlowRun | None:
    """The present flow run, if it is one of a deployment."""
    context = FlowRunContext.get()
    flow_run = None if context is None else context.flow_run
    return flow_run if flow_run is not None and flow_run.deployment_id is not None else None


class Patience:
    """Waiting for another process that still has the same work in hand."""

    def __init__(self, work: str) -> None:
        self._work, self._told = work, False

    def __call__(self) -> None:
        """Wait a moment. Raises StageStoppedError when this one must stop."""
        if not self._told:
            announce(f"another process still has the {self._work} in hand: waiting for its end")
            self._told = True
        check_stop()
        time.sleep(_LOCK_SECONDS)


class _Watch:
    """Asks the Prefect API now and then whether the present flow run must stop."""

    def __init__(self, run: Run, flow_run: FlowRun, partner: Partner | None) -> None:
        self._run, self._flow_run, self._partner = run, flow_run.id, partner
        self._began, self._next = datetime.now(UTC), time.monotonic() + _WATCH_SECONDS

    def __call__(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _WATCH_SECONDS
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(self._flow_run).state
                # One that was told dead, by who heard nothing of it for a while, lives all the same.
                if state is not None and (state.is_cancelling() or (state.is_final() and not state.is_crashed())):
                    return True
                return self._partner_ended_badly(client)
        except Exception as error:
            if not is_transient(error):
                raise
            return False  # an API that does not answer stops nobody: asked again in a while

    def _partner_ended_badly(self, client: SyncPrefectClient) -> bool:
        if self._partner is None:
            return False
        kind, place = self._partner
        key = stage_key(self._run.directory, kind, place)
        return ended_badly_since(client, key, self._began) and not self._run.is_at_work(kind)


def _bring_back_orchestrator(run: Run) -> None:
    with get_client(sync_client=True) as client:
        flow_run = orchestrator(client, run)
        state = None if flow_run is None else flow_run.state
        if flow_run is not None and state is not None and state.is_final() and not state.is_completed():
            Followed(client, flow_run).begin_again()
