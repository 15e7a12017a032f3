"""Where a run stands, read from what it committed."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from flows.guards import Guards
from flows.runs import Run
from flows.stages import MATH, MATH_AND_CODE

State = Literal["running", "stopped", "finished"]

# Kinds of work in the order they are told. What an epoch's wall time holds beside the first is orchestration; the
# others are a part of that, or go on beside the work.
_WORK = ("generate", "grade", "update", "evaluate")
KINDS = (*_WORK, "load", "store", "checkpoint")

_TOTALS = """
    SELECT stage, count(DISTINCT epoch) AS epochs, count(DISTINCT (epoch, step)) AS steps, count(*) AS rollouts,
           count(*) FILTER (NOT used) AS discarded, sum(completion_tokens)::BIGINT AS tokens
    FROM rollouts GROUP BY stage ORDER BY stage
"""
_SECONDS = """
    SELECT name, sum(value) AS seconds, coalesce(sum(value) FILTER (WHERE stage > 0), 0) AS in_epochs
    FROM metrics WHERE name LIKE 'timing_s/%' GROUP BY name
"""
_TRANSITIONS = "SELECT stage, epoch, decision, reason FROM transitions ORDER BY stage, epoch"
_EVALUATIONS = """
    SELECT stage, after, domain, difficulty AS class, n, pass_at_1, low, high
    FROM evaluations ORDER BY stage, after, domain NULLS FIRST, difficulty NULLS FIRST
"""


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    `stages` has epochs, steps, rollouts (and how many of them dynamic sampling discarded) and tokens so far and, once
    it has ended, why. `seconds` is by kind of work.
    `evaluations` are {stage, after, domain, class, n, pass_at_1, low, high}; null means all domains or classes;
    `reason` tells at which limit a run stopped, if it is beyond one of its own.
    `after` counts finished epochs of the stage, and stage 0 is the base policy.
    """

    run: str
    state: State
    reason: str | None
    stages: list[dict[str, Any]]
    rollouts: int
    tokens: int
    policy_versions: int
    seconds: dict[str, float]
    evaluations: list[dict[str, Any]]
    history: str
    report: str | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)


def read_status(run: Run) -> Status:
    """The status of a run, from its committed history."""
    history = run.history
    totals = {row["stage"]: row for row in history.sql(_TOTALS).to_pylist()}
    transitions = history.sql(_TRANSITIONS).to_pylist()
    stages = []
    for stage in (MATH, MATH_AND_CODE):
        if history.has("epochs", stage=stage, epoch=0):
            done = totals.get(stage, {"epochs": 0, "steps": 0, "rollouts": 0, "discarded": 0, "tokens": 0})
            ended = [row for row in transitions if row["stage"] == stage and row["decision"] != "continue"]
            reason = ended[0]["reason"] if ended else None
            stages.append({**done, "stage": stage, "ended": reason})
    versions = history.sql("SELECT count(*) AS n FROM policies WHERE version > 0").to_pylist()[0]["n"]
    state = _state(run)
    beyond = Guards(run).beyond() if state == "stopped" else None
    return Status(
        run=run.name,
        state=state,
        reason=None if beyond is None else f"{beyond.setting}: {beyond.how}",
        stages=stages,
        rollouts=sum(stage["rollouts"] for stage in stages),
        tokens=sum(stage["tokens"] for stage in stages),
        policy_versions=versions,
        seconds=_seconds(run),
        evaluations=history.sql(_EVALUATIONS).to_pylist(),
        history=str(run.directory),
        report=str(run.report) if run.report.is_file() else None,
    )


def is_finished(run: Run) -> bool:
    """Whether nothing of the run is left to do but its report."""
    history = run.history
    last = history.sql("SELECT stage, epoch FROM transitions WHERE decision = 'finish'").to_pylist()
    return bool(last) and history.has("evaluations", stage=last[0]["stage"], epoch=last[0]["epoch"] + 1)


def _state(run: Run) -> State:
    if is_finished(run):
        return "finished"
    return "running" if run.is_locked else "stopped"


def _seconds(run: Run) -> dict[str, float]:
    """Seconds by kind of work; what the epochs took beside generation, grading and learning is orchestration."""
    rows = {row["name"].removeprefix("timing_s/"): row for row in run.history.sql(_SECONDS).to_pylist()}
    seconds = {kind: rows[kind]["seconds"] for kind in KINDS if kind in rows}
    if "wall" in rows:
        measured = sum(rows[kind]["in_epochs"] for kind in _WORK if kind in rows)
        seconds["orchestration"] = max(0.0, rows["wall"]["seconds"] - measured)
        seconds["wall"] = rows["wall"]["seconds"]
    return {kind: round(value, 3) for kind, value in seconds.items()}
