"""Learning: the updates of one epoch, each from the rollouts of one committed step."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from flows.faults import STEP_RETRIES
from flows.guards import check_disk
from flows.metrics import Stopwatch, publish_metrics
from flows.not_finite import report_not_finite
from flows.plan import EpochPlan, read_plan
from flows.policies import is_published, prune, publish_row
from flows.progress import EpochProgress, announce_step
from flows.rows import training_batch, used_rows
from flows.runs import Run, RunError
from flows.together import StageStoppedError, check_stop, present_handover, tell_company, wait_until
from flows.working import Partner, working
from srpo_core.policy.errors import NotFiniteError
from srpo_core.seeds import derive_seed
from storage.files import publish_directory, temporary_directory

if TYPE_CHECKING:
    from srpo_core.policy.ranks.group import RankGroup
    from srpo_core.policy.trainer import Trainer


@flow(name="update", flow_run_name="{run} · stage {stage} · epoch {epoch} · update")
def update(store: str, run: str, stage: int, epoch: int) -> State | None:
    """Make every policy version of the epoch that is not published yet, in order."""
    try:
        sampling = Partner("rollout", {"stage": stage, "epoch": epoch}, goes_first=True)
        with working(store, run, "update", partner=sampling) as the_run:
            EpochUpdates(the_run, stage, epoch).make_missing_versions()
    except StageStoppedError as stopped:
        return Cancelled(message=str(stopped))
    return None


class EpochUpdates:
    """The updates of one epoch. The trainer stays in memory from step to step, or the processes that it has stay up."""

    def __init__(self, run: Run, stage: int, epoch: int) -> None:
        import torch  # which the orchestrator and the worker do not need

        from flows.trainers import open_trainer

        torch.set_num_threads(run.settings.policy.threads)
        self._run = run
        self._plan: EpochPlan = read_plan(run, stage, epoch)
        self._progress = EpochProgress(run, "update", self._plan, sizes=[1] * self._plan.steps, unit="steps")
        self._trainer: Trainer | RankGroup | None = None
        self._held = ExitStack()
        self._open_trainer = open_trainer
        self._handover = present_handover()

    def make_missing_versions(self) -> None:
        """Every version that is not published, in order."""
        plan = self._plan
        with self._held:
            for step in range(plan.steps):
                version = plan.first_version + step + 1
                if not is_published(self._run, plan, version):
                    check_stop()
                    if step == 0 and not self._run.policy(version).is_dir():
                        self._trainer = self._trainer_at(version - 1)  # while the step is sampled
                    wait_until(partial(self._can_learn, step))
                    check_disk(self._run)
                    update_step(self, step)

    def _can_learn(self, step: int) -> bool:
        return self._handover.rollouts(step) is not None or self._is_committed(step)

    def _is_committed(self, step: int) -> bool:
        return self._run.history.is_committed(self._plan.stage, self._plan.epoch, step)

    def update_step(self, step: int) -> None:
        """Make the version that follows from one step, and publish it, once the step is committed."""
        run, plan = self._run, self._plan
        version = plan.first_version + step + 1
        self._progress.reach_step(step)
        # A checkpoint without its row was published by an attempt that was killed between the two phases.
        if not run.policy(version).is_dir():
            self._learn(step, version)
        publish_row(run, version, stage=plan.stage, epoch=plan.epoch, step=step)
        tell_company()
        prune(run, version)
        announce_step(run, plan, step)
        self._progress.reach_step(step + 1)

    def _learn(self, step: int, version: int) -> None:
        """Learn from one step; publish its metrics, then the checkpoint, so that no version is ever without metrics."""
        run, plan, stopwatch = self._run, self._plan, Stopwatch()
        self._handover.withdraw()
        with stopwatch.measure("load"):
            trainer = self._trainer_at(version - 1)
        with stopwatch.measure("store"):
            rows = self._handover.rollouts(step)
            if rows is None:
                rows = run.history.read_step(plan.stage, plan.epoch, step)
            self._check_staleness(step, rows["policy_version"].to_pylist(), version - 1)
        rows = used_rows(rows)
        trainer, metrics = self._update(trainer, rows, step, stopwatch)
        self._offer(trainer, version)
        with temporary_directory(run.history.tmp_root) as directory:
            with stopwatch.measure("checkpoint"):
                trainer.save(directory)
            wait_until(partial(self._is_committed, step))  # what was learned from may have come from memory
            values = metrics | stopwatch.seconds | {"step_time": sum(stopwatch.seconds.values())}
            publish_metrics(
                run, "update", values, stage=plan.stage, epoch=plan.epoch, step=step, policy_version=version
            )
            publish_directory(directory, run.policy(version))
        self._trainer = trainer

    def _offer(self, trainer: "Trainer | RankGroup", version: int) -> None:
        """Let the next step be sampled while the checkpoint is written."""
        weights = trainer.weights()
        if weights is not None:
            self._handover.offer(version, weights)
            tell_company()

    def _update(
        self, trainer: "Trainer | RankGroup", rows: pa.Table, step: int, stopwatch: Stopwatch
    ) -> "tuple[Trainer | RankGroup, dict[str, float]]":
        """The trainer with the next version, and the update's figures.

        Where the update would not be finite, the next version is equal to the last: the trainer is loaded anew, since
        the one that failed may have made a part of its optimizer steps.
        """
        from srpo_core.policy.performance import performance_metrics

        plan, settings, batch = self._plan, self._run.settings, training_batch(rows)
        seed = derive_seed(settings.seed, "update", plan.stage, plan.epoch, step)
        left_out = False
        try:
            with stopwatch.measure("update"):
                metrics = trainer.update(batch, seed=seed)
        except NotFiniteError as error:
            left_out = True
            wait_until(partial(self._is_committed, step))
            report_not_finite(self._run, plan, step, error, rows, trainer.progress)
            with stopwatch.measure("load"):
                trainer = self._trainer_at(trainer.progress.version)
            metrics = trainer.leave_out(batch)
        performance = performance_metrics(
            tokens=int(batch.lengths.sum()),
            operations=trainer.operations,
            skipped=trainer.skipped_operations,
            seconds=stopwatch.seconds["timing_s/update"],
            device=settings.policy.device,
        )
        metrics["left_out/not_finite"] = float(left_out)
        metrics["left_out/no_advantage"] = float(not left_out and not metrics["optimizer_steps"])
        return trainer, metrics | performance

    def _trainer_at(self, version: int) -> "Trainer | RankGroup":
        """The trainer at `version`: the one in memory, which an update that fails must not be taken from again."""
        trainer, self._trainer = self._trainer, None
        if trainer is not None and trainer.progress.version == version:
            return trainer
        self._held.close()
        return self._open_trainer(self._run, version, self._held)

    def _check_staleness(self, step: int, sampled_by: list[int], version: int) -> None:
        """Refuse a step of which a rollout is staler than allowed: the pipeline samples none, another writer might."""
        plan, oldest = self._plan, min(sampled_by)
        allowed = self._run.settings.rollout.max_staleness
        if version - oldest > allowed:
            place = f"stage={plan.stage}/epoch={plan.epoch}"
            raise RunError(
                f"stage {plan.stage}, epoch {plan.epoch}, step {step} has rollouts of policy version {oldest}, "
                f"{version - oldest} versions behind version {version}; rollout.max_staleness allows {allowed}. "
                f"Nothing was learned from the step. Remove data/run={self._run.name}/{place}/step={step} and "
                f"index/run={self._run.name}/{place}/step-{step:06d}.parquet and resume: it is sampled again"
            )


@task(name="update step", task_run_name="step {step}", cache_policy=NO_CACHE, **STEP_RETRIES)
def update_step(updates: EpochUpdates, step: int) -> None:
    """One update as a task run of its own."""
    updates.update_step(step)
