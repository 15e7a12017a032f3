"""How a stage's flow begins, in whatever process: it has its kind of work alone, and learns when it must stop."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext, TagsContext

from flows.artifacts import wait_until_sent
from flows.deployed import GAVE_BACK, Followed, orchestrator, stage_key, stage_state
from flows.faults import is_transient
from flows.kept import engines_kept
from flows.prefect_server import end_threads_at_exit
from flows.progress import announce
from flows.runs import Run, open_run
from flows.together import StageStoppedError, check_stop, stage_begins, watching

_WATCH_SECONDS = 5.0
_ALONE_SECONDS = 120.0  # a run that was retried has begun its stages again by then
_LOCK_SECONDS = 0.2


@dataclass(frozen=True)
class Partner:
    """A stage that another one waits for."""

    kind: str
    place: Mapping[str, int]
    goes_first: bool = False
    """Whether it has its place on its pool before the other asks for one."""


class PlaceGivenBackError(StageStoppedError):
    """The stage held a place on its pool and waited for one that has none; it is begun again in its turn."""

    def __str__(self) -> str:
        """What its orchestrator knows it by."""
        return GAVE_BACK


@contextmanager
def working(store: str, run: str, kind: str, *, partner: Partner | None = None) -> Iterator[Run]:
    """The run, in whose work of this `kind` no other process takes part during the block.

    A stage of a deployment also learns when it was cancelled, or when its `partner`, without which it would wait for
    ever, has no process and nobody to begin it: as long as the run's own process lives, that is its to decide. And when
    a person had the stage begin again, the run that needs it begins again with it. Where the partner goes first and is
    queued, the stage gives its place back.
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
        self._in_company = time.monotonic()  # when the partner, or who would begin it, was last seen

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
                return self._partner is not None and self._must_stop_for(client, self._partner)
        except Exception as error:
            if not is_transient(error):
                raise
            return False  # an API that does not answer stops nobody: asked again in a while

    def _must_stop_for(self, client: SyncPrefectClient, partner: Partner) -> bool:
        """Whether it waits in vain for its partner. Raises PlaceGivenBackError when it keeps the partner waiting."""
        state = stage_state(client, stage_key(self._run.directory, partner.kind, partner.place))
        at_work = self._run.is_at_work(partner.kind)
        if state is not None and state.is_scheduled() and not at_work and partner.goes_first:
            raise PlaceGivenBackError
        ended_badly = state is not None and state.is_final() and not state.is_completed()
        # The run's process begins a partner again that ended before it began, and cancels this stage if it does not.
        if at_work or not (state is None or ended_badly) or self._run.is_locked:
            self._in_company = time.monotonic()
            return False
        if state is not None and state.timestamp > self._began:
            return True
        return time.monotonic() - self._in_company > _ALONE_SECONDS


def _bring_back_orchestrator(run: Run) -> None:
    with get_client(sync_client=True) as client:
        flow_run = orchestrator(client, run)
        state = None if flow_run is None else flow_run.state
        if flow_run is not None and state is not None and state.is_final() and not state.is_completed():
            Followed(client, flow_run).begin_again()
