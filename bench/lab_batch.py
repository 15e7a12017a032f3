"""The batch that the engine and the update are measured on: the demo's own step, sampled from the lab's base."""

import numpy as np
import torch

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.model import load_tokenizer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.problems.lab.world import lab_problems
from srpo_core.problems.problem import Problem
from srpo_core.rewards.grade import Answered, Grader
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.rollout.engine import Sampling
from srpo_core.rollout.rollouts import Rollout, sample_rollouts
from srpo_core.rollout.transformers import TransformersEngine
from srpo_core.seeds import derive_seed
from srpo_core.settings.rewards import RewardSettings, VerifierSettings

GROUP_SIZE = 8
SAMPLING = Sampling(temperature=1.0, max_new_tokens=64)


def lab_engine() -> TransformersEngine:
    """Our engine with the lab's base policy, on one thread."""
    torch.set_num_threads(1)
    engine = TransformersEngine(batch_rows=1024)
    engine.load(base_policy_dir())
    return engine


def lab_step() -> list[Problem]:
    """32 problems, two of each difficulty and domain."""
    cells = {(domain, difficulty): 2 for domain in ("math", "code") for difficulty in range(1, 9)}
    return lab_problems("train", cells, seed=17)


def sample(engine: TransformersEngine, problems: list[Problem], group_size: int = GROUP_SIZE) -> list[Rollout]:
    """`group_size` rollouts of each problem, always the same."""
    return sample_rollouts(
        engine,
        load_tokenizer(base_policy_dir()),
        problems,
        samples=group_size,
        seed_of=lambda problem, i: derive_seed(0, "bench", problem.id, i),
        sampling=SAMPLING,
        template="plain",
    )


def training_batch(rollouts: list[Rollout]) -> RolloutBatch:
    """The rollouts as the update takes them."""
    verifiers = Verifiers(VerifierSettings(), check_thought=True)
    grader = Grader(RewardSettings(), verifiers, max_new_tokens=SAMPLING.max_new_tokens)
    grades = grader.grade([Answered(r.problem, r.text, len(r.completion.token_ids), r.truncated) for r in rollouts])
    return RolloutBatch(
        prompts=[np.array(r.prompt_token_ids, np.int32) for r in rollouts],
        completions=[r.completion.token_ids for r in rollouts],
        logprobs=[r.completion.logprobs for r in rollouts],
        rewards=np.array([g.reward for g in grades], dtype=np.float64),
        groups=np.repeat(np.arange(len(rollouts) // GROUP_SIZE), GROUP_SIZE),
        truncated=np.array([r.truncated for r in rollouts]),
    )
