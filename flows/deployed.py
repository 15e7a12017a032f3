"""Stages as flow runs of their own deployments, on whatever worker takes them: begun, watched, begun again, cancelled.

A flow run is found again by its idempotency key: the run's directory, the stage's kind and its place. So an
orchestrator that was killed meets the flow runs of its former life: what goes on is waited for, what ended is begun
again under its own name, with its run count raised. Whether there is work left is told by what is committed alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from prefect import Flow, State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Scheduled

from flows.execution import Row, Stage, directory_tag
from flows.faults import patiently
from flows.progress import announce
from flows.runs import Run, RunError
from flows.together import StageStoppedError

POLL_SECONDS = 1.0
_ATTEMPTS = 5
_SETTLE_SECONDS = 5.0  # between a worker's two reports it runs the hooks, for which it imports the flow
_HOLD_SECONDS = 15.0  # from its beginning until a flow run holds the lock of its work, on a busy machine
_START_SECONDS = 60.0  # from its being taken until its process tells that it has begun, on a busy machine
_LATE = "Flow run was cancelled successfully."  # what a worker says of a flow run that perhaps said so itself before
GAVE_BACK = "gave its place on the pool back; begins again when the stage that it waits for has one"
_UNFINISHED = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


def stage_key(directory: Path, kind: str, place: Mapping[str, Any]) -> str:
    """The idempotency key of a stage's flow run: one for each piece of work of a run."""
    return ":".join([str(directory.absolute()), kind, *(f"{name}={place[name]}" for name in sorted(place))])


def run_deployed(*rows: Row) -> None:
    """Have the stages carried out by their deployments, several rows of them at the same time, and wait for their end.

    Raises RunError when one fails, StageStoppedError when one was cancelled; the others are cancelled then.
    """
    with get_client(sync_client=True) as client:
        lines = [line for row in rows if (line := [Child(client, stage) for stage in row if not stage.is_done()])]
        try:
            _wait_for_all(lines)
        except BaseException:
            for line in lines:
                for child in line:
                    child.cancel()
            raise


def ask_for(deployment: str, **options: Any) -> FlowRun:
    """The flow run that `run_deployment` makes with these options, or finds, and does not wait for.

    Raises RunError when there is no such deployment.
    """
    from prefect.deployments import run_deployment  # takes half a second, which no stage should pay

    try:
        return cast(FlowRun, patiently(run_deployment, deployment, timeout=0, **options))
    except ObjectNotFound as error:
        raise RunError(f"the Prefect API has no deployment {deployment}: `srpo deploy` makes it") from error


class Followed:
    """A flow run whose present attempt this process asked for, until it ends."""

    def __init__(self, client: SyncPrefectClient, flow_run: FlowRun) -> None:
        self._client = client
        self.flow_run = flow_run
        self._begun_before = flow_run.run_count - self.state.is_running()  # how many attempts there were before this
        self._again = 0

    @property
    def state(self) -> State[Any]:
        """Its state when it was last looked at."""
        assert self.flow_run.state is not None
        return self.flow_run.state

    @property
    def name(self) -> str:
        """Its name in the UI."""
        return self.flow_run.name

    def refresh(self) -> None:
        """Look at it anew; one that ended before it began is asked for again, unless a person cancelled it.

        A worker tells twice that a process died, and seconds later that it cancelled one which ended by itself: that
        ends an attempt which was scheduled in between, as does a worker that dies before it starts the process.
        """
        late = self.state.name == "Late"
        self.flow_run = patiently(self._client.read_flow_run, self.flow_run.id)
        if self.state.name == "Late" and not late:
            announce(f"{self.name} waits for a worker of pool {self.flow_run.work_pool_name}")
        not_begun = self.flow_run.run_count == self._begun_before
        of_before = self.state.is_crashed() or (self.state.is_cancelled() and self.state.message == _LATE)
        if of_before and not_begun and self._again < _ATTEMPTS:
            self.begin_again()

    @property
    def seconds(self) -> float:
        """How long it is in its state."""
        return (datetime.now(UTC) - self.state.timestamp).total_seconds()

    def is_left_behind(self, at_work: Callable[[], bool]) -> bool:
        """Whether it is told to run, or to start, and nobody is `at_work` on it: who would tell went with its process.

        Only a process starts in seconds: what starts in a container may wait for a machine or its image.
        """
        if self.state.is_pending():
            return self.seconds > _START_SECONDS and self._of_process_pool() and not at_work()
        return self.state.is_running() and self.seconds > _HOLD_SECONDS and not at_work()

    def _of_process_pool(self) -> bool:
        pool = self.flow_run.work_pool_name
        return pool is not None and patiently(self._client.read_work_pool, pool).type == "process"

    def begin_again(self) -> None:
        """Schedule it once more, under its name; one that has only just ended when its worker has told so twice."""
        if self.state.is_crashed() or self.state.is_cancelled():
            time.sleep(max(0.0, min(_SETTLE_SECONDS, _SETTLE_SECONDS - self.seconds)))
        again: State[Any] = Scheduled(name="AwaitingRetry", message="goes on from what is committed")
        patiently(self._client.set_flow_run_state, self.flow_run.id, again, force=True)
        self.flow_run = patiently(self._client.read_flow_run, self.flow_run.id)
        self._begun_before, self._again = self.flow_run.run_count, self._again + 1


class Child:
    """The flow run of one stage."""

    def __init__(self, client: SyncPrefectClient, stage: Stage, followed: Followed | None = None) -> None:
        """Of a `stage` that is to begin, or one whose flow run is `followed` already."""
        self._client = client
        self.stage = stage
        self._mine = False  # whether the attempt that goes on is one that this orchestrator asked for
        self._doubted = False  # whether it was told dead while it was at work
        self._followed = followed

    @property
    def has_begun(self) -> bool:
        """Whether its flow run was asked for."""
        return self._followed is not None

    @property
    def followed(self) -> Followed:
        """Its flow run, once it was begun."""
        assert self._followed is not None
        return self._followed

    @property
    def state(self) -> State[Any]:
        """Its flow run's state when it was last looked at."""
        return self.followed.state

    @property
    def name(self) -> str:
        """Its flow run's name in the UI."""
        return self.followed.name

    def begin(self) -> None:
        """Ask for the stage; a flow run of a former attempt is taken as it stands, or begun again if it ended."""
        stage, flow = self.stage, self.stage.flow
        parameters = stage.parameters
        flow_run = ask_for(
            f"{flow.name}/{flow.name}",
            parameters=parameters,
            flow_run_name=_name(flow, parameters),
            tags=stage.tags,
            idempotency_key=stage_key(stage.run.directory, flow.name, stage.place),
        )
        self._followed = Followed(self._client, flow_run)
        self._mine = self.state.is_scheduled()
        if self.has_ended:
            self.begin_again()

    def refresh(self) -> None:
        """Read the state anew; what a former orchestrator's attempt left undone when it ended is begun again."""
        self.followed.refresh()
        if self._mine or self.stage.is_done():
            return
        if (self.has_ended and not self.gave_back) or self.followed.is_left_behind(self._is_at_work):
            self.begin_again()

    @property
    def has_ended(self) -> bool:
        """Whether its attempt is over: one that was told dead, since nothing was heard of it, may be at work still."""
        if self.state.is_crashed() and self._is_at_work():
            if not self._doubted:
                announce(f"{self.name} is told dead, and its process is at work: waiting for its end")
            self._doubted = True
            return False
        return self.state.is_final()

    def _is_at_work(self) -> bool:
        return self.stage.run.is_at_work(self.stage.flow.name)

    @property
    def has_failed(self) -> bool:
        """Whether it ended otherwise than Completed, for good: one that was told dead may have done its work."""
        if not self.has_begun or not self.has_ended or self.state.is_completed() or self.gave_back:
            return False
        return not (self.state.is_crashed() and self.stage.is_done())

    @property
    def gave_back(self) -> bool:
        """Whether it ended only to give its place on the pool back: it begins again when its turn comes."""
        return self.state.is_cancelled() and self.state.message == GAVE_BACK

    @property
    def has_a_place(self) -> bool:
        """Whether a worker took its flow run, which holds its place on the pool from then on."""
        return self.has_begun and not self.state.is_scheduled()

    def cancel(self) -> None:
        """Have it stopped, if it was begun and has not ended."""
        if self._followed is not None:
            cancel(self._client, self._followed.flow_run.id)

    def begin_again(self) -> None:
        """Have its flow run, which ended, scheduled once more."""
        self._mine = True
        self.followed.begin_again()


def _wait_for_all(lines: Sequence[Sequence[Child]]) -> None:
    """Until all have ended. In each line one begins when the one before it has ended well, as long as none failed."""
    children = [child for line in lines for child in line]
    _begin_next(lines)
    while (begun := [child for child in children if child.has_begun]) and not all(child.has_ended for child in begun):
        time.sleep(POLL_SECONDS)
        for child in begun:
            child.refresh()
        if any(child.has_failed for child in children):
            for child in children:
                child.cancel()
        else:
            _begin_next(lines)
    bad = [child for child in children if child.has_failed]
    failed = [child for child in bad if not child.state.is_cancelled()]
    if failed:
        first = min(failed, key=lambda child: child.state.timestamp)
        raise RunError(f"{first.name} ended {first.state.name}: {first.state.message}")
    if bad:
        raise StageStoppedError
    if left := [child for child in children if not child.stage.is_done()]:
        raise RunError(f"{left[0].name} ended Completed, and its work is not committed where this process looks")


def _begin_next(lines: Sequence[Sequence[Child]]) -> None:
    """Begin what is next in each line; a line begins once the one before it has its place on its pool.

    Two runs that each held one pool's place and waited for the other's would wait for ever.
    """
    for before, line in zip([None, *lines], lines, strict=False):
        begun = [child for child in line if child.has_begun]
        if not begun or begun[-1].gave_back:
            if before is not None and not before[0].has_a_place:
                continue
            if begun:
                begun[-1].begin_again()
            else:
                line[0].begin()
        elif len(begun) < len(line) and begun[-1].has_ended:
            line[len(begun)].begin()


def _name(flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> str:
    assert isinstance(flow.flow_run_name, str)
    return flow.flow_run_name.format(**parameters)


def cancel(client: SyncPrefectClient, flow_run: Any) -> None:
    """Cancel a flow run that has not ended: at once if no process has it, else by its worker."""
    state = patiently(client.read_flow_run, flow_run).state
    if state is None or state.is_final() or state.is_cancelling():
        return
    waiting = state.is_scheduled()
    patiently(client.set_flow_run_state, flow_run, Cancelled() if waiting else Cancelling(), force=waiting)


def cancel_stages(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a cancelled run: its stages, queued and running, are cancelled with it."""
    with get_client(sync_client=True) as client:
        found = [tag for tag in client.read_flow_run(flow_run.id).tags if tag.startswith("srpo:")]
        children = _flow_runs(client, found[0], states=_UNFINISHED) if found else []  # none: it had not begun
        for child in children:
            if child.id != flow_run.id and child.deployment_id is not None:
                cancel(client, child.id)


def orchestrator(client: SyncPrefectClient, run: Run) -> FlowRun | None:
    """The newest deployed flow run that trains the run."""
    found = _flow_runs(client, directory_tag(run.directory), flow="srpo", limit=1)
    return found[0] if found else None


def stage_state(client: SyncPrefectClient, key: str) -> State[Any] | None:
    """The state of the stage's flow run with this idempotency key; None: it was never asked for."""
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"idempotency_key": {"any_": [key]}}))
    return found[0].state if found else None


def _flow_runs(
    client: SyncPrefectClient, tag: str, *, flow: str | None = None, states: list[str] | None = None, limit: int = 200
) -> list[FlowRun]:
    wanted: dict[str, Any] = {"tags": {"all_": [tag]}, "deployment_id": {"is_null_": False}}
    if states:
        wanted["state"] = {"type": {"any_": states}}
    flows = FlowFilter.model_validate({"name": {"any_": [flow]}}) if flow else None
    found: list[FlowRun] = patiently(
        client.read_flow_runs,
        flow_filter=flows,
        flow_run_filter=FlowRunFilter.model_validate(wanted),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=limit,
    )
    return found
