"""Sampling: the rollouts of one epoch, step after step, into the history."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from flows.faults import STEP_RETRIES
from flows.guards import Guards
from flows.loading import load_version, wait_for_version, wait_until_published
from flows.metrics import Stopwatch, metric_rows
from flows.plan import EpochPlan, planned_problems, read_plan
from flows.progress import EpochProgress
from flows.rows import GradedRollout, informative_groups, mark_used, shard_table
from flows.runs import Run
from flows.together import StageStoppedError, check_stop, present_handover, tell_company
from flows.working import Partner, working
from srpo_core.dynamic_sampling import StepRounds
from srpo_core.problems.problem import Problem
from srpo_core.seeds import derive_seed

if TYPE_CHECKING:
    from flows.sampler import Sampler


@flow(name="rollout", flow_run_name="{run} · stage {stage} · epoch {epoch} · rollout")
def rollout(store: str, run: str, stage: int, epoch: int) -> State | None:
    """Sample every step of the epoch that is not committed yet, each from the policy version that is its own."""
    from flows.sampler import Sampler  # takes torch, which the orchestrator and the worker do not need

    try:
        with (
            working(store, run, "rollout", partner=Partner("update", {"stage": stage, "epoch": epoch})) as the_run,
            Sampler(the_run.settings, the_run.directory) as sampler,
        ):
            EpochSampling(the_run, stage, epoch, sampler).sample_missing_steps()
    except StageStoppedError as stopped:
        return Cancelled(message=str(stopped))
    return None


class EpochSampling:
    """The sampling of one epoch."""

    def __init__(self, run: Run, stage: int, epoch: int, sampler: "Sampler") -> None:
        self._run = run
        self._plan: EpochPlan = read_plan(run, stage, epoch)
        self._steps = planned_problems(run, self._plan)
        self._problems = {problem.id: problem for problems in self._steps for problem in problems}
        self._sampler = sampler
        self._handover = present_handover()
        sizes = [len(problems) * run.settings.rollout.group_size for problems in self._steps]
        self._progress = EpochProgress(run, "rollout", self._plan, sizes=sizes, unit="rollouts")

    def sample_missing_steps(self) -> None:
        """Every step that is not committed, in order."""
        plan = self._plan
        guards = Guards(self._run, stage=plan.stage, epoch=plan.epoch)
        for step in range(plan.steps):
            if not self._run.history.is_committed(plan.stage, plan.epoch, step):
                check_stop()
                wait_for_version(self._sampler, self._run, plan, self._version(step))
                guards.check()
                sample_step(self, step)
                self._sampler.rest()

    def sample_step(self, step: int) -> None:
        """Sample what is missing of one step, round by round, grade it, and commit the step.

        What is published already is read back, not sampled again: the next round follows from it, so that a step
        that was interrupted between rounds goes on as it would have.
        """
        plan, history, shard_size = self._plan, self._run.history, self._run.settings.rollout.groups_per_shard
        rounds, stopwatch, shards = self._rounds(step), Stopwatch(), 0
        written: list[pa.Table] = []
        self._progress.reach_step(step)
        while prompts := rounds.next_round():
            for first in range(0, len(prompts), shard_size):
                rows = None
                if not history.has_shard(plan.stage, plan.epoch, step, shards):
                    check_stop()  # between shards nothing is lost, and a step may have hours of them
                    rows = self._write_shard(step, shards, prompts[first : first + shard_size], rounds, stopwatch)
                if rows is not None:
                    written.append(rows)
                else:
                    rows = history.read_shard(plan.stage, plan.epoch, step, shards, ["prompt_id", "accuracy"])
                rounds.record(informative_groups(rows))
                self._progress.reach_step(step, rounds.groups * self._run.settings.rollout.group_size)
                shards += 1
        if len(written) == shards:  # all of it is this attempt's, as the update would read it
            self._handover.offer_rollouts(step, pa.concat_tables(written))
            tell_company()
        values = self._accounts(rounds) | self._sampler.proof() | stopwatch.seconds
        metrics = metric_rows("rollout", values, step=step, policy_version=self._version(step))
        history.commit_step(plan.stage, plan.epoch, step, shards, metrics=metrics, seen=tell_company)
        self._progress.reach_step(step + 1)

    def _version(self, step: int) -> int:
        """The policy version that samples the step."""
        return self._plan.sampled_by(step, self._run.settings.rollout.max_staleness)

    def _rounds(self, step: int) -> StepRounds:
        plan, settings = self._plan, self._run.settings
        return StepRounds(
            [problem.id for problem in self._steps[step]],
            self._problems,
            needed=settings.rollout.prompts_per_step,
            max_rounds=settings.rollout.dynamic_sampling_rounds,
            seed_key=(settings.seed, "refill", plan.stage, plan.epoch, step),
        )

    def _accounts(self, rounds: StepRounds) -> dict[str, float]:
        """What dynamic sampling took of the step; nothing when it is off."""
        if not rounds.is_dynamic:
            return {}
        discarded = rounds.groups - rounds.used_groups
        return {
            "dynamic_sampling/rounds": rounds.rounds,
            "dynamic_sampling/discarded_rollouts": discarded * self._run.settings.rollout.group_size,
            "dynamic_sampling/missing_groups": rounds.missing,
        }

    def _write_shard(
        self, step: int, shard: int, prompts: Sequence[str], rounds: StepRounds, stopwatch: Stopwatch
    ) -> pa.Table | None:
        """Sample and publish one shard: its rows, or None when another attempt's was first, which then stands."""
        plan, version = self._plan, self._version(step)
        with stopwatch.measure("load"):
            load_version(self._sampler, self._run, plan, version)
        graded = self._sample(step, [self._problems[prompt] for prompt in prompts], stopwatch)
        # Weights may come from memory: their version is published before a rollout of theirs is.
        wait_until_published(self._run, plan, version)
        with stopwatch.measure("store"):
            first_position = rounds.groups * self._run.settings.rollout.group_size
            table = shard_table(graded, first_position=first_position, policy_version=version)
            table = mark_used(table, rounds.used(informative_groups(table)))
            mine = self._run.history.write_shard(plan.stage, plan.epoch, step, shard, table)
        return table if mine else None

    def _sample(self, step: int, problems: list[Problem], stopwatch: Stopwatch) -> list[GradedRollout]:
        plan, settings = self._plan, self._run.settings

        def seed_of(problem: Problem, sample: int) -> int:
            return derive_seed(settings.seed, "rollout", plan.stage, plan.epoch, step, problem.id, sample)

        tell, size = self._progress.advance, settings.rollout.group_size
        return self._sampler.sample(problems, size, seed_of, stopwatch, kind="generate", tell=tell)


@task(name="rollout step", task_run_name="step {step}", cache_policy=NO_CACHE, **STEP_RETRIES)
def sample_step(sampling: EpochSampling, step: int) -> None:
    """One step as a task run of its own."""
    sampling.sample_step(step)
