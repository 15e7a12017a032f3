"""What a person sees while a run goes on: lines, and how far the work has come.

Each event is a line in the terminal and in the flow run's log. Work that takes long tells its own `Progress`, which the
UI shows and which `NOW` holds for the terminal's live display. Nothing here is committed, or read by training.
"""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, cast

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.logging.loggers import PrefectLogAdapter
from rich.console import Console

from flows.artifacts import ProgressSeries
from flows.plan import EpochPlan
from flows.runs import Run
from flows.stages import step_limit

LOGGER = "srpo"
"""What a flow run's log names lines for people by, beside those of Prefect."""
ARTIFACT_SECONDS = 10.0
"""A progress artifact appears once its work has lasted so long, and is updated no more often."""
_RECENT_STEPS = 20  # a stage's speed is that of its last steps, with what lies between them

console = Console(highlight=False, soft_wrap=True)


class Progress:
    """How far one piece of work has come, in units of which there are `total`."""

    def __init__(self, name: str, kind: str, *, total: int, unit: str, place: str = "") -> None:
        """`kind` names the work, of which there is one piece at a time; its series in the UI is the run's `name`'s."""
        self.kind, self.place, self.unit, self.total, self.done = kind, place, unit, total, 0
        self._began = self._shown = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._series, self._is_shown = ProgressSeries(name, f"{kind}-progress"), False
        NOW.works[kind] = self

    def reach(self, done: int) -> None:
        """So much is done; what the first report tells was perhaps done by an earlier attempt."""
        now, self.done = time.monotonic(), min(self.total, done)
        if self._first is None:
            self._first = (now, self.done)
        if (self._is_shown and self.is_done) or now - self._shown >= ARTIFACT_SECONDS:
            self._shown, self._is_shown = now, True
            self._series.show(100 * self.done / self.total, self._told(now))

    def advance(self, more: int) -> None:
        """So much more is done."""
        self.reach(self.done + more)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.done >= self.total

    def _told(self, now: float) -> str:
        counted = f"{self.place}: {self.done:,} of {self.total:,} {self.unit}"
        if self.is_done:
            return f"{counted}, in {duration(now - self._began)}"
        left = self._seconds_left(now)
        return counted if left is None else f"{counted}, about {duration(left)} left"

    def _seconds_left(self, now: float) -> float | None:
        """At the speed since the first report; None as long as that told nothing."""
        began, before = self._first or (now, self.done)
        return (now - began) / (self.done - before) * (self.total - self.done) if self.done > before else None


class EpochProgress(Progress):
    """Work on an epoch, step after step."""

    def __init__(self, run: Run, kind: str, plan: EpochPlan, *, sizes: Sequence[int], unit: str) -> None:
        """`sizes` tells how many units each step has."""
        self._before = [0, *accumulate(sizes)]
        place = f"stage {plan.stage} · epoch {plan.epoch}"
        super().__init__(run.name, kind, total=self._before[-1], unit=unit, place=place)

    def reach_step(self, step: int, units: int = 0) -> None:
        """The steps before `step` are done and so many units of it, or of what takes the place of some."""
        self.reach(min(self._before[step] + units, self._before[min(step + 1, len(self._before) - 1)]))


@dataclass
class StepSeen:
    """The newest update: where it stands, and the step's metrics by name."""

    stage: int
    epoch: int
    done: int  # steps of the stage
    limit: int  # steps after which the stage ends with its epoch
    values: Mapping[str, float]


@dataclass
class Now:
    """What this process is at: its works by kind, its newest step, and when its last steps ended."""

    works: dict[str, Progress] = field(default_factory=dict)
    step: StepSeen | None = None
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS + 1))

    def seconds_left(self) -> float | None:
        """How long the present stage takes to its step limit; None as long as there is no speed."""
        if self.step is None or len(self.ends) < 2:
            return None
        speed = (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        return speed * max(0, self.step.limit - self.step.done)


NOW = Now()


def duration(seconds: float) -> str:
    """As a clock has it: 0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def announce(line: str) -> None:
    """Show a line in the terminal and keep it in the log of the present flow or task run."""
    console.print(line, markup=False)
    with contextlib.suppress(MissingContextError):
        cast(PrefectLogAdapter, get_run_logger()).getChild(LOGGER).info(line)


def announce_step(run: Run, plan: EpochPlan, step: int) -> None:
    """What one step's rollouts and update were like."""
    history = run.history
    rows = history.read("metrics", stage=plan.stage, epoch=plan.epoch, name=f"update-{step:06d}").to_pylist()
    rows += history.read("metrics", stage=plan.stage, epoch=plan.epoch, name=f"rollout-{step:06d}").to_pylist()
    values = {row["name"]: row["value"] for row in rows}
    _see_step(run, plan, step, values)
    announce(
        f"stage {plan.stage} · epoch {plan.epoch} · step {step + 1:2d}/{plan.steps} · "
        f"reward {values['reward']:.2f} · zero variance {values['frac_reward_zero_std']:4.0%} · "
        f"{values['num_tokens']:,.0f} tokens · length {values['completions/mean_length']:.0f} · "
        f"sampled in {values.get('timing_s/generate', 0):.2f} s, learned in {values['timing_s/update']:.2f} s"
    )


def _see_step(run: Run, plan: EpochPlan, step: int, values: Mapping[str, float]) -> None:
    done = plan.first_version + step + 1 - _first_version(run, plan.stage)
    # The epoch goes on to its end, whatever the limit.
    limit = max(step_limit(run.settings, plan.stage), done + plan.steps - step - 1)
    NOW.step = StepSeen(plan.stage, plan.epoch, done, limit, values)
    NOW.ends.append(time.monotonic())


@lru_cache(maxsize=2)
def _first_version(run: Run, stage: int) -> int:
    """The policy version that a stage begins with."""
    return int(run.history.read("epochs", stage=stage, epoch=0, name="rows")["first_version"][0].as_py())


def announce_evaluation(stage: int, after: int, summary: Sequence[dict[str, Any]]) -> None:
    """pass@1 over all problems and by domain."""
    overall = [row for row in summary if row["difficulty"] is None]
    told = ", ".join(
        f"{row['domain'] or 'all'} {row['pass_at_1']:.3f} ({row['low']:.3f}-{row['high']:.3f})" for row in overall
    )
    announce(f"{evaluated(stage, after)} · held-out pass@1: {told}")


def evaluated(stage: int, after: int) -> str:
    """Which policy an evaluation is of, in words."""
    return "base policy" if stage == 0 else f"stage {stage} · after epoch {after - 1}"


def announce_resampling(stage: int, epoch: int, decisions: Sequence[dict[str, Any]]) -> None:
    """How many prompts were easy, mixed and hard, and how many stay."""
    buckets = [decision["bucket"] for decision in decisions]
    told = ", ".join(f"{buckets.count(bucket)} {bucket}" for bucket in dict.fromkeys(buckets))
    kept = sum(decision["keep"] for decision in decisions)
    floor = sum(decision["reason"].startswith("warning, floor:") for decision in decisions)
    warning = f" (warning: {floor} of them by the floor alone)" if floor else ""
    announce(f"stage {stage} · epoch {epoch} · resampling: {told}; {kept} of {len(decisions)} prompts stay{warning}")
