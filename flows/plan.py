"""The plan of an epoch, read from the decisions that built it and written as such."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.runs import Run
from srpo_core.problems.problem import Problem
from srpo_core.schedule import schedule_epoch
from storage.selectors import last_visits


@dataclass(frozen=True)
class EpochPlan:
    """How long an epoch is, and the policy version it starts from."""

    stage: int
    epoch: int
    first_version: int
    steps: int

    @property
    def last_version(self) -> int:
        """The policy version that the epoch's last update makes."""
        return self.first_version + self.steps

    def sampled_by(self, step: int, max_staleness: int) -> int:
        """The policy version that samples `step`: as stale as is allowed, so that sampling and updating overlap.

        It is always this one, never the newest there is, so that a run is the same however fast its parts were.
        An epoch's first steps are sampled by the version it starts from: its prompts were chosen after it.
        """
        return self.first_version + max(0, step - max_staleness)


BASE = EpochPlan(stage=0, epoch=0, first_version=0, steps=0)
"""What came before training: the base, version 0, and no step."""


def read_plan(run: Run, stage: int, epoch: int) -> EpochPlan:
    """The plan of a planned epoch. Raises StoreError when the epoch was not planned."""
    (planned,) = run.history.read("epochs", stage=stage, epoch=epoch, name="rows").to_pylist()
    return EpochPlan(stage, epoch, planned["first_version"], planned["steps"])


def planned_problems(run: Run, plan: EpochPlan) -> list[list[Problem]]:
    """The problems that each step of the epoch begins with."""
    problems = {problem.id: problem for problem in read_problems(run, "train")}
    steps: list[list[Problem]] = [[] for _ in range(plan.steps)]
    decisions = run.history.read("decisions", stage=plan.stage, epoch=plan.epoch, name="rows").to_pylist()
    kept = [decision for decision in decisions if decision["keep"]]
    for decision in sorted(kept, key=lambda decision: (decision["step"], decision["position"])):
        steps[decision["step"]].append(problems[decision["prompt_id"]])
    return steps


def read_problems(run: Run, split: str) -> list[Problem]:
    """The run's problems of one split, `train` or `heldout`."""
    rows = run.history.read("prompts", stage=0, epoch=0, name="rows").to_pylist()
    fields = ("domain", "difficulty", "question", "answer", "source")
    return [Problem(**{field: row[field] for field in fields}) for row in rows if row["split"] == split]


def publish_plan(
    run: Run, stage: int, epoch: int, decisions: Sequence[Mapping[str, Any]], *, first_version: int, selector: str
) -> None:
    """Record what was decided about every candidate prompt and, after that, the epoch that follows from it.

    A decision has the columns of the decisions table that tell what was decided and why; `weight` may be left out.
    Which selector, which step, and the visits so far are filled in. An epoch of no prompts gets its decisions alone.
    """
    settings = run.settings
    kept = [decision["prompt_id"] for decision in decisions if decision["keep"]]
    steps = schedule_epoch(
        kept,
        prompts_per_step=settings.rollout.prompts_per_step,
        run_seed=settings.seed,
        stage=stage,
        epoch=epoch,
    )
    places = {prompt_id: (step, place) for step, ids in enumerate(steps) for place, prompt_id in enumerate(ids)}
    seen = last_visits(run.history)
    rows = []
    for decision in decisions:
        step, place = places.get(decision["prompt_id"], (None, None))
        visits, last_stage, last_epoch = seen.get(decision["prompt_id"], (0, None, None))
        filled = {"selector": selector, "step": step, "position": place, "visits": visits}
        rows.append({"weight": None, **decision, **filled, "last_stage": last_stage, "last_epoch": last_epoch})
    run.history.publish("decisions", rows, stage=stage, epoch=epoch)
    if steps:
        plan = {"prompts": len(kept), "steps": len(steps), "first_version": first_version, "selector": selector}
        run.history.publish("epochs", [plan], stage=stage, epoch=epoch)


def is_planned(run: Run, stage: int, epoch: int) -> bool:
    """Whether all that `publish_plan` publishes of an epoch is there."""
    if run.history.has("epochs", stage=stage, epoch=epoch):
        return True
    if not run.history.has("decisions", stage=stage, epoch=epoch):
        return False
    return not any(run.history.read("decisions", stage=stage, epoch=epoch, name="rows")["keep"].to_pylist())


def new_prompt(problem: Problem, reason: str) -> dict[str, Any]:
    """The decision to sample a prompt that no epoch has visited."""
    return {
        "prompt_id": problem.id,
        "domain": problem.domain,
        "difficulty": problem.difficulty,
        "keep": True,
        "bucket": "new",
        "reason": reason,
        "graded": 0,
        "correct": 0,
        "pass_rate": None,
    }
