"""On-policy, the pipeline computes what a plain loop computes that has neither flows nor a history."""

from pathlib import Path

import numpy as np
import torch
from pipeline_process import UndisturbedRun

from flows.plan import planned_problems, read_plan
from flows.runs import open_run
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.checkpoints import model_checksum
from srpo_core.policy.model import load_tokenizer
from srpo_core.policy.trainer import Trainer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.rewards.grade import Answered, Grader
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.rollout.engine import Sampling
from srpo_core.rollout.rollouts import sample_rollouts
from srpo_core.rollout.transformers import TransformersEngine
from srpo_core.seeds import derive_seed


def test_the_first_epoch_gives_the_policy_of_a_plain_loop(undisturbed: UndisturbedRun, tmp_path: Path) -> None:
    run = open_run(undisturbed.store, undisturbed.name)
    settings, plan = run.settings, read_plan(run, 1, 0)
    torch.set_num_threads(1)
    engine = TransformersEngine(batch_rows=settings.rollout.batch_rows)
    trainer = Trainer(base_policy_dir(), settings.update, temperature=1.0)
    tokenizer, checkpoint = load_tokenizer(base_policy_dir()), base_policy_dir()
    verifiers = Verifiers(settings.verifiers, check_thought=True)
    grader = Grader(settings.rewards, verifiers, max_new_tokens=settings.rollout.max_new_tokens)
    for step, problems in enumerate(planned_problems(run, plan)):
        engine.load(checkpoint)
        rollouts = []
        for first in range(0, len(problems), settings.rollout.groups_per_shard):
            rollouts += sample_rollouts(
                engine,
                tokenizer,
                problems[first : first + settings.rollout.groups_per_shard],
                samples=settings.rollout.group_size,
                seed_of=lambda problem, i, step=step: derive_seed(settings.seed, "rollout", 1, 0, step, problem.id, i),
                sampling=Sampling(1.0, settings.rollout.max_new_tokens),
                template="plain",
            )
        grades = grader.grade([Answered(r.problem, r.text, len(r.completion.token_ids), r.truncated) for r in rollouts])
        batch = RolloutBatch(
            prompts=[np.array(r.prompt_token_ids, np.int32) for r in rollouts],
            completions=[r.completion.token_ids for r in rollouts],
            logprobs=[r.completion.logprobs for r in rollouts],
            rewards=np.array([g.reward for g in grades]),
            groups=np.repeat(np.arange(len(problems)), settings.rollout.group_size),
            truncated=np.array([r.truncated for r in rollouts]),
        )
        trainer.update(batch, seed=derive_seed(settings.seed, "update", 1, 0, step))
        checkpoint = tmp_path / f"version-{step + 1}"
        trainer.save(checkpoint)
    assert model_checksum(checkpoint) == model_checksum(run.policy(plan.last_version))
