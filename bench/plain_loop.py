"""An epoch of a run as a plain loop: sampled, graded and learned from, without flows, without a history.

What it takes is the least that the run's epoch can take.
"""

import time
from pathlib import Path

import numpy as np
import torch

from flows.plan import planned_problems, read_plan
from flows.runs import Run
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.checkpoints import model_checksum
from srpo_core.policy.model import load_tokenizer
from srpo_core.policy.trainer import Trainer
from srpo_core.problems.problem import Problem
from srpo_core.rewards.grade import Answered, Grader
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.rollout.engine import Sampling
from srpo_core.rollout.rollouts import sample_rollouts
from srpo_core.rollout.transformers import TransformersEngine
from srpo_core.seeds import derive_seed


class PlainLoop:
    """The loop over one epoch of a finished run whose engine is transformers and whose rollouts do not lag."""

    def __init__(self, run: Run, stage: int, epoch: int) -> None:
        """Load what the epoch began with; that version must still be there."""
        self._run, self._settings, self._plan = run, run.settings, read_plan(run, stage, epoch)
        settings, checkpoint = self._settings, run.policy(self._plan.first_version)
        torch.set_num_threads(settings.policy.threads)
        self._engine = TransformersEngine(batch_rows=settings.rollout.batch_rows)
        self._engine.load(checkpoint)
        self._tokenizer = load_tokenizer(checkpoint)
        self._trainer = Trainer(checkpoint, settings.update, temperature=settings.rollout.temperature)
        verifiers = Verifiers(settings.verifiers, check_thought=settings.rewards.check_thought)
        self._grader = Grader(settings.rewards, verifiers, max_new_tokens=settings.rollout.max_new_tokens)

    @property
    def steps(self) -> int:
        """Steps of the epoch."""
        return self._plan.steps

    def seconds(self, scratch: Path) -> float:
        """Wall time of all steps. Raises AssertionError when the policy is not the one that the run made."""
        start = time.perf_counter()
        for step, problems in enumerate(planned_problems(self._run, self._plan)):
            self._step(step, problems)
        seconds = time.perf_counter() - start
        self._trainer.save(scratch)
        made = self._run.history.read("policies").to_pylist()
        (row,) = (row for row in made if row["version"] == self._plan.last_version)
        assert model_checksum(scratch) == row["sha256"], "the plain loop gave another policy than the run"
        return seconds

    def _step(self, step: int, problems: list[Problem]) -> None:
        settings, plan = self._settings, self._plan

        def seed_of(problem: Problem, sample: int) -> int:
            return derive_seed(settings.seed, "rollout", plan.stage, plan.epoch, step, problem.id, sample)

        rollouts = []
        for first in range(0, len(problems), settings.rollout.groups_per_shard):
            rollouts += sample_rollouts(
                self._engine,
                self._tokenizer,
                problems[first : first + settings.rollout.groups_per_shard],
                samples=settings.rollout.group_size,
                seed_of=seed_of,
                sampling=Sampling(settings.rollout.temperature, settings.rollout.max_new_tokens),
                template=settings.problems.template,
            )
        answered = [Answered(r.problem, r.text, len(r.completion.token_ids), r.truncated) for r in rollouts]
        grades = self._grader.grade(answered)
        batch = RolloutBatch(
            prompts=[np.array(r.prompt_token_ids, np.int32) for r in rollouts],
            completions=[r.completion.token_ids for r in rollouts],
            logprobs=[r.completion.logprobs for r in rollouts],
            rewards=np.array([grade.reward for grade in grades]),
            groups=np.repeat(np.arange(len(problems)), settings.rollout.group_size),
            truncated=np.array([r.truncated for r in rollouts]),
        )
        self._trainer.update(batch, seed=derive_seed(settings.seed, "update", plan.stage, plan.epoch, step))
        weights = self._trainer.weights()
        assert weights is not None, "a plain loop has neither an adapter nor several processes"
        self._engine.take(weights)
