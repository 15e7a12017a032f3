"""What rollouts that may lag save: a step's time at staleness 0, 1 and 2 beside that of sampling and learning alone.

Real flows, a real history and a real, tiny model, in one process; sampling and learning are filled up to known seconds
(bench/slowed.py). Alone means the same flow on a copy of the same run from which only its own part of the epoch was
removed, so that it waits for nobody. Times are those at which steps and policy versions were committed. A step's time
is taken between the first and the last policy version of an epoch: what is lost between two epochs, where the pipeline
empties and fills, is told apart. A figure is good while no real work took longer than what it is filled up to, which
the first two rows tell. With `--quick` one case, shorter.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, options, tell
from flows.prefect_server import prefect_api, quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

from prefect import flow

from bench.slowed import slowed
from flows.artifacts import wait_until_sent
from flows.execution import Stage, run_inline
from flows.plan import is_planned
from flows.prepare import prepare
from flows.progress import console
from flows.runs import Run, create_run
from flows.srpo import Training
from flows.stages import MATH
from srpo_core.config import Settings

GOAL = 1.1


@dataclass(frozen=True)
class Case:
    """Seconds that sampling and learning take, how many steps an epoch has, how many epochs, and which bounds."""

    rollout: float
    update: float
    steps: int = 12
    epochs: int = 1
    bounds: tuple[int, ...] = (0, 1)

    def __str__(self) -> str:
        return f"R {self.rollout:g} s, U {self.update:g} s"

    def settings(self, max_staleness: int) -> Settings:
        """Every epoch visits all prompts; a step is one shard, so that it is sampled in one piece."""
        return Settings.model_validate(
            {
                "keep_policies": 100,
                "problems": {"train": self.steps, "heldout": 1},
                "rollout": {
                    "prompts_per_step": 8,
                    "group_size": 4,
                    "max_new_tokens": 32,
                    "max_staleness": max_staleness,
                },
                "update": {"learning_rate": 2e-4},
                "resampling": {"selector": "uniform"},
                "stages": {"math": {"max_steps": (self.epochs - 1) * self.steps + 1}},
                "evaluation": {"samples": 1, "every_epochs": 100},
            }
        )


QUICK = (Case(0.5, 0.5, epochs=2),)
WHOLE = (Case(1.0, 1.0, epochs=2, bounds=(0, 1, 2)), Case(2.0, 1.0), Case(1.0, 2.0))


@dataclass(frozen=True)
class Times:
    """When the steps and the policy versions of each epoch were committed, in seconds since 1970."""

    steps: list[list[float]]
    versions: list[list[float]]

    @property
    def step_seconds(self) -> float:
        """Seconds from one policy version to the next within an epoch."""
        return statistics.mean(map(between, self.versions))

    @property
    def boundary_seconds(self) -> float:
        """Seconds from an epoch's last policy version to the next one's first."""
        pairs = zip(self.versions, self.versions[1:], strict=False)
        return statistics.mean(after[0] - before[-1] for before, after in pairs)


def between(times: list[float]) -> float:
    """Mean seconds from one time to the next."""
    return (times[-1] - times[0]) / (len(times) - 1)


def main() -> None:
    """Measure and tell."""
    asked = options(__doc__ or "")
    console.quiet = True
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as store, prefect_api():
        for number, case in enumerate(QUICK if asked.quick else WHOLE):
            figures += measured(Path(store) / str(number), case)
    tell(figures, asked)


def measured(store: Path, case: Case) -> list[Figure]:
    """The figures of one case."""
    with slowed(case.rollout, case.update) as work:
        runs = {bound: create_run(store, f"lag{bound}", case.settings(bound)) for bound in case.bounds}
        times = {bound: train(run) for bound, run in runs.items()}
        rollout = between(again_without(_forget_rollouts, runs[1], store / "rollout").steps[0])
        update = between(again_without(_forget_updates, runs[1], store / "update").versions[0])
    larger, on_policy = max(rollout, update), times[0].step_seconds
    figures = [
        Figure(f"{case}: longest real sampling in R", work.longest_rollout, "s", case.rollout),
        Figure(f"{case}: longest real learning in U", work.longest_update, "s", case.update),
        Figure(f"{case}: sampling alone, beside R", rollout, "s a step", case.rollout),
        Figure(f"{case}: learning alone, beside U", update, "s a step", case.update),
        Figure(f"{case}: staleness 0, beside both alone", on_policy, "s a step", rollout + update),
    ]
    for bound in case.bounds[1:]:
        seconds, name = times[bound].step_seconds, f"{case}: staleness {bound}"
        goal = (f"<= {GOAL}", seconds <= GOAL * larger) if bound == 1 else (None, None)
        figures.append(Figure(f"{name}, beside the larger alone", seconds, "s a step", larger, *goal))
        figures.append(Figure(f"{name}, beside staleness 0", seconds, "s a step", on_policy))
    for bound in case.bounds if case.epochs > 1 else ():
        step = times[bound].step_seconds
        lost = times[bound].boundary_seconds - step
        figures.append(Figure(f"{case}: staleness {bound}, lost between epochs", lost, "s", step))
    return figures


@flow(name="bench staleness")
def train(run: Run) -> Times:
    """Train what is missing of the run's first stage, as `srpo run` does, and tell when it was committed."""
    run_inline([Stage(prepare, run, {}, lambda: is_planned(run, MATH, 0))])
    Training(run, run_inline).train_stage(MATH)
    wait_until_sent()  # what is shown is read from the run, which is removed at the end
    epochs = range(len(run.history.read("epochs", stage=MATH)) - 1)  # the last one was planned, not begun
    return Times(
        [[path.stat().st_mtime for path in _index(run, epoch)] for epoch in epochs],
        [[path.stat().st_mtime for path in _rows(run, epoch)] for epoch in epochs],
    )


def again_without(forget: Callable[[Run], None], run: Run, store: Path) -> Times:
    """Train a copy of the trained run in `store`, of whose first epoch a part was removed."""
    shutil.copytree(run.directory, store / run.name)
    copy = Run(store, run.name)
    forget(copy)
    return train(copy)


def _forget_rollouts(run: Run) -> None:
    for path in (*run.directory.glob("data/*/stage=1/epoch=0/step=*/shard-*"), *_index(run, 0)):
        path.unlink()


def _forget_updates(run: Run) -> None:
    for row in _rows(run, 0):
        shutil.rmtree(run.directory / "policies" / row.stem)
        row.unlink()


def _index(run: Run, epoch: int) -> list[Path]:
    return sorted(run.directory.glob(f"index/*/stage=1/epoch={epoch}/step-*.parquet"))


def _rows(run: Run, epoch: int) -> list[Path]:
    return sorted(run.directory.glob(f"tables/policies/*/stage=1/epoch={epoch}/version-*.parquet"))


if __name__ == "__main__":
    main()
