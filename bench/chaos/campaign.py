"""Runs that are killed until enough kills are done, each compared with an undisturbed one."""

import os
import queue
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.chaos.checks import differences, missing_steps, repeated_steps, steps_from_other_rollouts, written_too_early
from bench.chaos.moments import Gap, draw, gaps_of
from bench.chaos.outcome import Blow, Outcome, Plan, Resume, Victim, read_outcome, write_plan
from flows.runs import Run, open_run

NAME = "chaos"
VICTIMS: dict[str, tuple[Victim, ...]] = {
    "inline": ("process", "process", "process", "server"),
    "deployments": ("stage", "orchestrator", "worker", "server"),
    "vllm": ("engine", "engine", "process"),
}
_MODULES = {"inline": "bench.chaos.inline", "deployments": "bench.chaos.deployed", "vllm": "bench.chaos.inline"}
_WAYS: tuple[Resume, ...] = ("srpo resume", "prefect flow-run retry", "API")
_OWN_SERVER_EVERY = 4  # inline runs: one of so many has no Prefect API but the servers that its processes start


@dataclass(frozen=True)
class Result:
    """A run that was killed, and what is wrong with it: nothing, if all is well."""

    mode: str
    outcome: Outcome
    differences: list[str]
    missing: list[str]
    repeated: list[str]
    other_rollouts: list[str]
    too_early: list[str]

    @property
    def is_equal(self) -> bool:
        """Whether it ended like the undisturbed one."""
        return not self.differences

    @property
    def faults(self) -> list[str]:
        """Everything that is wrong."""
        outcome = self.outcome
        return [
            *(f"differs: {each}" for each in self.differences),
            *(f"missing: {each}" for each in self.missing),
            *(f"trained twice: {each}" for each in self.repeated),
            *(f"trained on other rollouts: {each}" for each in self.other_rollouts),
            *(f"written too early: {each}" for each in self.too_early),
            *(f"written again: {each}" for each in outcome.rewritten),
            *(f"left behind: {each}" for each in outcome.orphans),
            *outcome.faults,
        ]


@dataclass(frozen=True)
class Reference:
    """The undisturbed run of a mode."""

    run: Run
    gaps: list[Gap]
    seconds: float


def carry_out(plan: Plan, mode: str) -> Outcome:
    """Do a plan in a process of its own; the directory above its store is the run's alone."""
    home = Path(plan.store).parent
    Path(plan.store).mkdir(parents=True, exist_ok=True)
    write_plan(plan, home / "plan.json")
    environment = os.environ | {"PREFECT_HOME": str(home / "prefect"), "OMP_NUM_THREADS": "1"}
    environment.pop("PREFECT_API_URL", None)
    if plan.url:
        environment["PREFECT_API_URL"] = plan.url
    command = [sys.executable, "-m", _MODULES[mode], str(home / "plan.json"), str(home / "outcome.json")]
    with (home / "harness.log").open("wb") as log:
        subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], stdout=log, stderr=log, check=True)
    return read_outcome(home / "outcome.json")


def reference(directory: Path, settings: Path, mode: str) -> Reference:
    """An undisturbed run."""
    plan = Plan(str(directory / "runs"), NAME, str(settings), seed=0, blows=[], url=free_url())
    outcome = carry_out(plan, mode)
    run = open_run(Path(plan.store), NAME)
    if faults := judge(mode, outcome, run, run).faults:
        raise RuntimeError(f"not all is well with the undisturbed run: {faults}")
    return Reference(run, gaps_of(run.directory), outcome.seconds)


@dataclass
class Campaign:
    """Runs of one mode, `per_run` kills in each, until `kills` are done; and what became of them so far.

    Several threads may carry it out together.
    """

    mode: str
    directory: Path
    settings: Path
    kills: int
    per_run: int
    seed: int
    undisturbed: Reference | None = None
    results: list[Result] = field(default_factory=list)
    _plans: int = 0
    _under_way: int = 0  # kills that are planned, and not yet done
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def carry_out(self) -> Iterator[Result]:
        """Results of this thread, as they come."""
        with self._lock:
            if self.undisturbed is None:
                self.undisturbed = reference(self.directory / f"undisturbed-{self.mode}", self.settings, self.mode)
        while (plan := self._next_plan(self.undisturbed)) is not None:
            result = judge(self.mode, carry_out(plan, self.mode), killed_run(plan), self.undisturbed.run)
            with self._lock:
                self.results.append(result)
                self._under_way -= len(plan.blows)
            yield result

    def _next_plan(self, undisturbed: Reference) -> Plan | None:
        """A plan for the next kills; None, if nothing is left to plan."""
        with self._lock:
            done = sum(len(result.outcome.kills) for result in self.results)
            kills = min(self.per_run, self.kills - done - self._under_way)
            if kills <= 0:
                return None
            number, self._plans, self._under_way = self._plans, self._plans + 1, self._under_way + kills
        seed = self.seed * 1000 + number
        own = self.mode == "inline" and number % _OWN_SERVER_EVERY == _OWN_SERVER_EVERY - 1
        store = self.directory / f"{self.mode}-{number:03d}" / "runs"
        blows = draw_blows(undisturbed.gaps, self.mode, kills, seed)
        return Plan(str(store), NAME, str(self.settings), seed, blows, url="" if own else free_url())


def at_the_same_time(rows: Iterable[Iterable[Campaign]]) -> Iterator[Result]:
    """Results of rows of campaigns, all rows at the same time. What one raises is raised here.

    Threads that nobody waits for: when this process ends, so does all that they started.
    """
    results: queue.Queue[Result | BaseException | None] = queue.Queue()

    def carry_out(row: Iterable[Campaign]) -> None:
        try:
            for campaign in row:
                for result in campaign.carry_out():
                    results.put(result)
        except BaseException as error:
            results.put(error)
        else:
            results.put(None)

    threads = [threading.Thread(target=carry_out, args=[row], daemon=True) for row in rows]
    for thread in threads:
        thread.start()
    for _ in threads:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result


def draw_blows(gaps: list[Gap], mode: str, count: int, seed: int) -> list[Blow]:
    """Whom to kill and when, in order; the ways of resuming take turns."""
    dice, victims = random.Random(seed), VICTIMS[mode]
    turn = dice.randrange(len(_WAYS))
    blows = [
        Blow(dice.choice(victims), moment, _WAYS[(turn + number) % len(_WAYS)])
        for number, moment in enumerate(draw(gaps, count, dice))
    ]
    ending = [number for number, blow in enumerate(blows) if blow.victim in ("stage", "orchestrator")]
    if ending and seed % 2:  # one deployed run in two also moves, where the kill ends it
        moved = dice.choice(ending)
        blows[moved] = replace(blows[moved], resume="srpo resume, moved")
    return blows


def killed_run(plan: Plan) -> Run:
    """The run of a plan that was carried out, which may have moved."""
    moved = Path(plan.store).with_name("moved")
    return open_run(moved if moved.is_dir() else Path(plan.store), plan.name)


def judge(mode: str, outcome: Outcome, run: Run, undisturbed: Run) -> Result:
    """What is wrong with a run that was killed. Only what samples bit for bit can end like the undisturbed run."""
    exact = run.settings.engine.kind == "transformers"
    return Result(
        mode,
        outcome,
        differences(run, undisturbed) if exact else [],
        missing_steps(run),
        repeated_steps(run),
        steps_from_other_rollouts(run),
        written_too_early(run),
    )


def free_url() -> str:
    """The URL of a Prefect API at a port of the loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api"
