"""One run that workers train, killed again and again: `python -m bench.chaos.deployed PLAN.json OUTCOME.json`.

Server and workers are processes of their own, as on several machines, so that each dies alone. The plan's store is
below a directory that is the harness's own: Prefect's database and all logs lie beside it.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from bench.chaos.checks import Witness
from bench.chaos.moments import Moment, published
from bench.chaos.outcome import Blow, Kill, Outcome, Plan, Resume, read_plan, write_outcome
from bench.chaos.processes import adopt_orphans, kill, living, reap, wait_until
from bench.chaos.servers import POOLS, Daemon, Server, environment, worker
from flows.faults import patiently
from flows.runs import open_run
from flows.status import is_finished

PATIENCE_SECONDS = 300.0  # three minutes until what nobody watches any more is crashed, on a busy machine
_END_SECONDS = 60.0
_LONGEST_OUTAGE_SECONDS = 5.0
_PRESSES = 6  # a worker tells of a death twice: what was begun again in between ends once more
_POLL_SECONDS = 0.5  # of the API; files are looked at far more often
_WAYS: tuple[Resume, ...] = ("prefect flow-run retry", "API", "srpo resume")


class DeployedRun:
    """One run, its server, its workers, and what is seen of them."""

    def __init__(self, plan: Plan, client: SyncPrefectClient) -> None:
        self._plan, self._client, self._dice, self._witness = plan, client, random.Random(plan.seed), Witness()
        self._store = Path(plan.store)
        self._logs = self._store.parent
        own = environment(plan.url, self._logs / "prefect", self._store)
        self._environment = own
        self._server = Server(plan.url, own, self._logs / "server.log")
        self._workers = {pool: worker(pool, own, self._logs / f"worker-{pool}.log") for pool in POOLS}
        self._commands: list[subprocess.Popen[bytes]] = []
        self.outcome = Outcome()

    def run(self) -> None:
        """Begin the run, strike it as planned, and bring it to its end."""
        with self._served():
            began = time.monotonic()
            self._command("run", self._plan.settings, "--run-id", self._plan.name)
            if wait_until(lambda: self._find() or self._commands[0].poll() is not None, PATIENCE_SECONDS):
                for blow in self._plan.blows:
                    if self._await(blow.moment):
                        self._strike(blow)
                self._finish()
            self.outcome.seconds = time.monotonic() - began
        self._count_orphans()

    @contextmanager
    def _served(self) -> Iterator[None]:
        self._store.mkdir(parents=True, exist_ok=True)
        self._server.start()
        try:
            deploy = [sys.executable, "-m", "flows", "deploy", "--store", str(self._store)]
            subprocess.run(deploy, env=self._environment, stdout=subprocess.DEVNULL, check=True)
            for each in self._workers.values():
                each.start()
            yield
        finally:
            for command in self._commands:
                with suppress(subprocess.TimeoutExpired):
                    command.wait(_END_SECONDS)
            for each in self._workers.values():
                each.stop()
            self._server.stop()

    def _command(self, *arguments: str, mode: str = "deployments") -> None:
        """Have the run trained; the command follows it to its end, whatever that is."""
        command = [sys.executable, "-m", "flows", *arguments, "--store", str(self._store), "--mode", mode]
        with (self._logs / "commands.log").open("ab") as said:
            started = subprocess.Popen(command, env=self._environment, stdout=said, stderr=said)
        self._commands.append(started)

    @property
    def _directory(self) -> Path:
        return self._store / self._plan.name

    def _find(self) -> FlowRun | None:
        """The flow run that trains the run."""
        wanted = {"name": {"any_": [self._plan.name]}, "deployment_id": {"is_null_": False}}
        found = patiently(
            self._client.read_flow_runs,
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
        return found[0] if found else None

    def _ended(self) -> FlowRun | None:
        """The flow run that trains the run, if it has ended."""
        found = self._find()
        return found if found is not None and found.state is not None and found.state.is_final() else None

    def _until(self, ready: Callable[[], object], *, every: float = 0.01) -> bool:
        """Whether `ready()`, looked at so often, came before the run's end, as long as the run gets on."""
        deadline, asked, count = time.monotonic() + PATIENCE_SECONDS, 0.0, 0
        while not ready():
            if time.monotonic() - asked > _POLL_SECONDS:
                if self._ended():
                    return bool(ready())
                if (now := len(published(self._directory))) > count:
                    deadline, count = time.monotonic() + PATIENCE_SECONDS, now
                asked = time.monotonic()
            if time.monotonic() > deadline:
                self.outcome.faults.append(f"nothing came of it in {PATIENCE_SECONDS:.0f} s: {self._states()}")
                return False
            time.sleep(every)
        return True

    def _await(self, moment: Moment) -> bool:
        """Whether the moment came before the run's end; a run that ended badly since the last blow is gone on with."""
        file = self._directory / moment.after
        if not self._until(file.is_file):
            self._go_on_if_ended(self._dice.choice(_WAYS))
            if not self._until(file.is_file):
                return False
        time.sleep(moment.seconds)
        return True

    def _strike(self, blow: Blow) -> None:
        """Kill the victim, wait for what comes of it, and go on with the run if that ended it."""
        struck = self._kill(blow)
        if struck is None:
            return  # the run ended before there was such a victim
        newest = max(published(self._directory), key=lambda path: path.stat().st_mtime_ns, default=self._directory)
        count = len(published(self._directory))
        if isinstance(struck, Daemon):
            time.sleep(_LONGEST_OUTAGE_SECONDS * self._dice.random())
            struck.start()
            survived = self._until(lambda: len(published(self._directory)) > count)
            flow_run = None
        else:
            survived = self._until(lambda: self._is_completed(struck), every=_POLL_SECONDS)
            flow_run = struck if blow.victim == "stage" else None
        where = str(newest.relative_to(self._directory))
        self.outcome.kills.append(Kill(blow.victim, blow.moment.where, where, survived))
        self.outcome.rewritten += self._witness.look(self._directory)
        if not survived:
            self._go_on_if_ended(blow.resume, flow_run)

    def _kill(self, blow: Blow) -> UUID | Daemon | None:
        """Kill the victim of a blow: the flow run whose process died, or what is to be started again."""
        if blow.victim in ("server", "worker"):
            victim = self._server if blow.victim == "server" else self._workers[self._dice.choice(POOLS)]
            victim.kill()
            return victim
        found: list[tuple[int, UUID]] = []
        run = self._find()
        own = None if run is None else run.id

        def look() -> bool:
            found[:] = [pair for pair in flow_run_processes() if (pair[1] == own) == (blow.victim == "orchestrator")]
            return bool(found)

        if not self._until(look):
            return None
        process, flow_run = self._dice.choice(found)
        kill(process)
        return flow_run

    def _is_completed(self, flow_run: UUID) -> bool:
        state = patiently(self._client.read_flow_run, flow_run).state
        return state is not None and state.is_completed()

    def _go_on_if_ended(self, way: Resume, stage: UUID | None = None) -> None:
        """Have the run go on, if it ended badly; a stage that died may be what is retried."""
        run = self._ended()
        if run is None or run.state is None or run.state.is_completed():
            return
        flow_run = stage or run.id
        self.outcome.resumed.append(way)
        steps, began, ended = self._steps(), time.monotonic(), run.state.timestamp
        if way == "prefect flow-run retry":
            retry = [sys.executable, "-m", "prefect", "--no-prompt", "flow-run", "retry", str(flow_run)]
            done = subprocess.run(retry, env=self._environment, capture_output=True, text=True, check=False)
            if done.returncode:
                self.outcome.faults.append(f"{way} of {flow_run}: {done.stdout}{done.stderr}")
        elif way == "API":
            self._client.set_flow_run_state(flow_run, Scheduled(name="AwaitingRetry"), force=True)
        else:
            if way == "srpo resume, moved":
                self._move()
            inline = way == "srpo resume, inline"
            self._command("resume", self._plan.name, mode="inline" if inline else "deployments")
            if inline:
                self._commands[-1].wait()
                return

        def again() -> bool:
            now = self._find()
            time.sleep(_POLL_SECONDS)
            return now is not None and now.state is not None and (now.id != run.id or now.state.timestamp != ended)

        if not wait_until(again, PATIENCE_SECONDS):
            self.outcome.faults.append(f"{way} of {flow_run} did nothing: {self._states()}")
        if self._until(lambda: self._steps() > steps):
            self.outcome.first_step_seconds.append(time.monotonic() - began)

    def _move(self) -> None:
        """Another path for the store, once nobody works there."""
        wait_until(lambda: not flow_run_processes(), PATIENCE_SECONDS)
        moved = self._store.with_name("moved")
        self._store.rename(moved)
        self._store = moved

    def _steps(self) -> int:
        return len(list(self._directory.glob("index/**/step-*.parquet")))

    def _finish(self) -> None:
        """Bring the run to its end, whatever of the last blows still comes to light."""
        for _ in range(_PRESSES):
            self._until(lambda: False)
            if is_finished(open_run(self._store, self._plan.name)):
                break
            self._go_on_if_ended(self._dice.choice(_WAYS))
        else:
            self.outcome.faults.append(f"the run did not end: {self._states()}")
        self.outcome.rewritten += self._witness.look(self._directory)

    def _states(self) -> str:
        """Every flow run and its state, for people."""
        runs = patiently(self._client.read_flow_runs, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=12)
        return "; ".join(f"{run.name}: {run.state.name} {run.state.message}" for run in runs if run.state is not None)

    def _count_orphans(self) -> None:
        def left() -> dict[int, list[str]]:
            reap([])
            return living()

        if not wait_until(lambda: not left(), _END_SECONDS):
            self.outcome.orphans += [" ".join(command) for command in left().values()]
            kill(*left())


def flow_run_processes() -> list[tuple[int, UUID]]:
    """The processes below this one that carry out a flow run, each without those that it started, and which it is."""
    found: dict[UUID, int] = {}
    for process in living():
        with suppress(OSError):
            for variable in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                if variable.startswith(b"PREFECT__FLOW_RUN_ID="):
                    found.setdefault(UUID(variable.partition(b"=")[2].decode()), process)
    return [(process, flow_run) for flow_run, process in found.items()]


if __name__ == "__main__":
    adopt_orphans()
    plan = read_plan(Path(sys.argv[1]))
    os.environ["PREFECT_API_URL"] = plan.url
    with temporary_settings({PREFECT_API_URL: plan.url}), get_client(sync_client=True) as client:
        run = DeployedRun(plan, client)
        try:
            run.run()
        finally:
            kill(*living())
            write_outcome(run.outcome, Path(sys.argv[2]))
