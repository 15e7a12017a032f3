"""What is done to a run, and what became of it: plain data that goes between the processes of the harness as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from bench.chaos.moments import Moment

Victim = Literal["process", "orchestrator", "stage", "worker", "server", "engine"]
Resume = Literal["srpo resume", "prefect flow-run retry", "API", "srpo resume, moved", "srpo resume, inline"]


@dataclass(frozen=True)
class Blow:
    """A kill that is planned: whom, when, and how the run is gone on with if it ends by it."""

    victim: Victim
    moment: Moment
    resume: Resume = "srpo resume"


@dataclass(frozen=True)
class Plan:
    """One run: where it is, its settings' file, what is done to it, and the seed of what is drawn on the way.

    `url` names a Prefect API, empty: each process of an inline run has a server of its own.
    """

    store: str
    name: str
    settings: str
    seed: int
    blows: list[Blow]
    url: str = ""


@dataclass
class Kill:
    """A kill that was done."""

    victim: str
    where: str
    newest: str  # the file that was published last
    survived: bool  # whether the run went on by itself


@dataclass
class Outcome:
    """What became of a run. `faults` must stay empty."""

    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0  # from its first start to its end
    resumed: list[str] = field(default_factory=list)  # the ways by which the run was gone on with
    first_step_seconds: list[float] = field(default_factory=list)  # from resuming to the next committed step
    orphans: list[str] = field(default_factory=list)  # processes that outlived who started them
    rewritten: list[str] = field(default_factory=list)  # committed files that changed or vanished
    faults: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # what processes that ended by themselves wrote to stderr


def write_plan(plan: Plan, path: Path) -> None:
    """Keep a plan for the process that carries it out."""
    path.write_text(json.dumps(asdict(plan)), encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """A plan that was kept."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    blows = [Blow(**blow | {"moment": Moment(**blow["moment"])}) for blow in kept.pop("blows")]
    return Plan(**kept, blows=blows)


def write_outcome(outcome: Outcome, path: Path) -> None:
    """Keep an outcome for who asked for the plan to be carried out."""
    path.write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def read_outcome(path: Path) -> Outcome:
    """An outcome that was kept."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**kept | {"kills": [Kill(**kill) for kill in kept["kills"]]})
