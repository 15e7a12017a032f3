"""pass@1 of a policy on held-out problems, by domain and difficulty."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.engines import engine_directory
from flows.metrics import Stopwatch
from flows.problems import heldout_problems
from flows.progress import announce
from flows.rows import GradedRollout
from flows.sampler import Sampler
from srpo_core.config import Settings
from srpo_core.evaluation import estimate_pass_at_k
from srpo_core.problems.problem import Problem
from srpo_core.seeds import derive_seed


def sample_heldout(
    sampler: Sampler, settings: Settings, problems: Sequence[Problem], stopwatch: Stopwatch
) -> list[GradedRollout]:
    """Graded rollouts of the policy that `sampler` has loaded.

    Their seeds do not depend on when the evaluation takes place: two of them differ by their policies alone.
    """

    def seed_of(problem: Problem, sample: int) -> int:
        return derive_seed(settings.seed, "evaluate", problem.id, sample)

    return sampler.sample(problems, settings.evaluation.samples, seed_of, stopwatch, kind="evaluate")


def evaluate_directory(directory: Path, settings: Settings) -> list[dict[str, Any]]:
    """The summary of the policy in `directory` on the held-out problems of `settings`, as `summarise` gives it.

    Raises PolicyError when it cannot be loaded, RunError when the settings ask for problems that there are not.
    """
    heldout = heldout_problems(settings, announce)
    with engine_directory() as scratch, Sampler(settings, scratch) as sampler:
        sampler.load(directory)
        graded = sample_heldout(sampler, settings, heldout, Stopwatch())
    return summarise(graded, settings.evaluation.samples)


def summarise(graded: Sequence[GradedRollout], samples: int) -> list[dict[str, Any]]:
    """One row per domain and difficulty, per domain, per difficulty and over all (None); `samples` per problem."""
    cells: dict[tuple[str | None, int | None], list[GradedRollout]] = defaultdict(list)
    for rollout, grade in graded:
        for domain in (None, rollout.problem.domain):
            for difficulty in (None, rollout.problem.difficulty):
                cells[domain, difficulty].append((rollout, grade))
    order = sorted(cells, key=lambda cell: (cell[0] or "", cell[1] or 0))
    return [
        {"domain": domain, "difficulty": difficulty, **_estimate(cells[domain, difficulty], samples)}
        for domain, difficulty in order
    ]


def _estimate(graded: Sequence[GradedRollout], samples: int) -> dict[str, Any]:
    correct: dict[str, int] = defaultdict(int)
    for rollout, grade in graded:
        correct[rollout.problem.id] += grade.accuracy is not None and grade.accuracy >= 1 - 1e-6
    estimate = estimate_pass_at_k(list(correct.values()), samples, 1)
    return {
        "n": len(correct),
        "samples": samples,
        "pass_at_1": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "mean_tokens": float(np.mean([len(rollout.completion.token_ids) for rollout, _ in graded])),
        "truncated": float(np.mean([rollout.truncated for rollout, _ in graded])),
    }
