"""Runs that are killed until enough kills are done, each compared with the undisturbed run of the same session."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.chaos.checks import differences, missing_steps, repeated_steps, steps_from_other_rollouts
from bench.chaos.moments import Gap, draw, gaps_of
from bench.chaos.outcome import Blow, Outcome, Plan, Resume, Victim, read_outcome, write_plan
from flows.runs import Run, open_run

NAME = "chaos"
VICTIMS: dict[str, tuple[Victim, ...]] = {
    "inline": ("process", "process", "process", "server"),
    "deployments": ("stage", "orchestrator", "worker", "server"),
}
_MODULES = {"inline": "bench.chaos.inline", "deployments": "bench.chaos.deployed"}
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
    if outcome.faults:
        raise RuntimeError(f"the undisturbed run did not end well: {outcome.faults}")
    run = open_run(Path(plan.store), NAME)
    return Reference(run, gaps_of(run.directory), outcome.seconds)


def campaign(
    directory: Path, settings: Path, *, references: dict[str, Reference], kills: int, per_run: dict[str, int], seed: int
) -> Iterator[Result]:
    """Results of runs, the modes in turn, until `kills` are done."""
    done = number = 0
    modes = list(references)
    while done < kills:
        mode = modes[number % len(modes)]
        blows = draw_blows(references[mode], mode, min(per_run[mode], kills - done), seed * 1000 + number)
        own = mode == "inline" and number // len(modes) % _OWN_SERVER_EVERY == _OWN_SERVER_EVERY - 1
        home = directory / f"{mode}-{number:03d}"
        url = "" if own else free_url()
        plan = Plan(str(home / "runs"), NAME, str(settings), seed=seed * 1000 + number, blows=blows, url=url)
        result = judge(mode, carry_out(plan, mode), killed_run(plan), references[mode].run)
        done, number = done + len(result.outcome.kills), number + 1
        yield result


def draw_blows(undisturbed: Reference, mode: str, count: int, seed: int) -> list[Blow]:
    """Whom to kill and when, in order; the ways of resuming take turns."""
    dice, victims = random.Random(seed), VICTIMS[mode]
    if mode == "inline" and undisturbed.run.settings.engine.kind == "vllm":
        victims = (*victims, "engine")
    turn = dice.randrange(len(_WAYS))
    blows = [
        Blow(dice.choice(victims), moment, _WAYS[(turn + number) % len(_WAYS)])
        for number, moment in enumerate(draw(undisturbed.gaps, count, dice))
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
    )


def free_url() -> str:
    """The URL of a Prefect API at a port of the loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api"
