"""Sampling: the rollouts of one epoch, step after step, into the history."""

from pathlib import Path

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from flows.metrics import Stopwatch, publish_metrics
from flows.plan import EpochPlan, read_plan
from flows.policies import checked_policy, is_published
from flows.rows import GradedRollout, shard_table
from flows.runs import Run, open_run
from flows.sampler import Sampler
from flows.together import StageStoppedError, check_stop, stage_begins, wait_until
from srpo_core.problems.problem import Problem
from srpo_core.seeds import derive_seed


@flow(name="rollout", flow_run_name="{run} · stage {stage} · epoch {epoch} · rollout")
def rollout(store: str, run: str, stage: int, epoch: int) -> State | None:
    """Sample every step of the epoch that is not committed yet, each from the policy version that is its own."""
    stage_begins()
    try:
        the_run = open_run(Path(store), run)
        with Sampler(the_run.settings) as sampler:
            EpochSampling(the_run, stage, epoch, sampler).sample_missing_steps()
    except StageStoppedError as stopped:
        return Cancelled(message=str(stopped))
    return None


class EpochSampling:
    """The sampling of one epoch."""

    def __init__(self, run: Run, stage: int, epoch: int, sampler: Sampler) -> None:
        self._run = run
        self._plan: EpochPlan = read_plan(run, stage, epoch)
        self._sampler = sampler

    def sample_missing_steps(self) -> None:
        """Every step that is not committed, in order."""
        plan = self._plan
        for step in range(len(plan.steps)):
            if not self._run.history.is_committed(plan.stage, plan.epoch, step):
                check_stop()
                self._wait_for_policy(step)
                sample_step(self, step)

    def sample_step(self, step: int) -> None:
        """Sample what is missing of one step, grade it, and commit the step."""
        plan, history, settings = self._plan, self._run.history, self._run.settings
        version = plan.sampled_by(step, settings.rollout.max_staleness)
        problems = plan.steps[step]
        shard_size = settings.rollout.groups_per_shard
        shards = [problems[first : first + shard_size] for first in range(0, len(problems), shard_size)]
        stopwatch = Stopwatch()
        for shard, shard_problems in enumerate(shards):
            if not history.has_shard(plan.stage, plan.epoch, step, shard):
                with stopwatch.measure("load"):
                    self._sampler.load(checked_policy(self._run, version))
                graded = self._sample(step, shard_problems, stopwatch)
                with stopwatch.measure("store"):
                    first_position = shard * shard_size * settings.rollout.group_size
                    table = shard_table(graded, first_position=first_position, policy_version=version)
                    history.write_shard(plan.stage, plan.epoch, step, shard, table)
        publish_metrics(
            self._run,
            "rollout",
            stopwatch.seconds,
            stage=plan.stage,
            epoch=plan.epoch,
            step=step,
            policy_version=version,
        )
        history.commit_step(plan.stage, plan.epoch, step, len(shards))

    def _wait_for_policy(self, step: int) -> None:
        version = self._plan.sampled_by(step, self._run.settings.rollout.max_staleness)
        wait_until(lambda: is_published(self._run, self._plan, version))

    def _sample(self, step: int, problems: list[Problem], stopwatch: Stopwatch) -> list[GradedRollout]:
        plan, settings = self._plan, self._run.settings

        def seed_of(problem: Problem, sample: int) -> int:
            return derive_seed(settings.seed, "rollout", plan.stage, plan.epoch, step, problem.id, sample)

        return self._sampler.sample(problems, settings.rollout.group_size, seed_of, stopwatch, kind="generate")


@task(name="rollout step", task_run_name="step {step}", cache_policy=NO_CACHE)
def sample_step(sampling: EpochSampling, step: int) -> None:
    """One step as a task run of its own."""
    sampling.sample_step(step)
