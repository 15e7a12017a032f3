"""pass@1 and what goes with it, from the rollouts of an evaluation: by domain and difficulty."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.metrics import Stopwatch
from flows.rows import GradedRollout
from srpo_core.config import Settings
from srpo_core.evaluation import estimate_pass_at_k
from srpo_core.problems.problem import Problem
from srpo_core.rollout.engine import Tell, unheard
from srpo_core.seeds import derive_seed

if TYPE_CHECKING:
    from flows.sampler import Sampler  # takes torch, which not every process needs

HELDOUT = "heldout"
"""The suite that a run's own held-out problems are."""


def sample_heldout(
    sampler: "Sampler",
    settings: Settings,
    problems: Sequence[Problem],
    stopwatch: Stopwatch,
    tell: Tell = unheard,
) -> list[GradedRollout]:
    """Graded rollouts of the policy that `sampler` has loaded.

    Their seeds do not depend on when the evaluation takes place: two of them differ by their policies alone.
    `tell` hears how many are sampled.
    """

    def seed_of(problem: Problem, sample: int) -> int:
        return derive_seed(settings.seed, "evaluate", problem.id, sample)

    return sampler.sample(problems, settings.evaluation.samples, seed_of, stopwatch, kind="evaluate", tell=tell)


def summarise(rollouts: Sequence[Mapping[str, Any]], samples: int) -> list[dict[str, Any]]:
    """One row per domain and difficulty, per domain, per difficulty and over all (None); `samples` per problem.

    `rollouts` are rows of the evaluation_rollouts table. An ungraded one counts as wrong in pass@1 and pass@k: leaving
    it out would reward a policy for what the verifier could not judge. Its share is told beside them.
    """
    cells: dict[tuple[str | None, int | None], list[Mapping[str, Any]]] = defaultdict(list)
    for rollout in rollouts:
        for domain in (None, rollout["domain"]):
            for difficulty in (None, rollout["difficulty"]):
                cells[domain, difficulty].append(rollout)
    order = sorted(cells, key=lambda cell: (cell[0] or "", -1 if cell[1] is None else cell[1]))
    return [
        {"domain": domain, "difficulty": difficulty, **_estimate(cells[domain, difficulty], samples)}
        for domain, difficulty in order
    ]


def correct_by_problem(rollouts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rollouts of each problem were right."""
    correct: dict[str, int] = defaultdict(int)
    for rollout in rollouts:
        correct[rollout["prompt_id"]] += rollout["accuracy"] is not None and rollout["accuracy"] >= 1 - 1e-6
    return correct


def _estimate(rollouts: Sequence[Mapping[str, Any]], samples: int) -> dict[str, Any]:
    correct = list(correct_by_problem(rollouts).values())
    estimate = estimate_pass_at_k(correct, samples, 1)
    return {
        "n": len(correct),
        "samples": samples,
        "pass_at_1": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "pass_at_k": float(np.mean([each > 0 for each in correct])),
        "mean_tokens": float(np.mean([rollout["completion_tokens"] for rollout in rollouts])),
        "truncated": float(np.mean([rollout["finish_reason"] == "length" for rollout in rollouts])),
        "ungraded": float(np.mean([rollout["accuracy"] is None for rollout in rollouts])),
    }
