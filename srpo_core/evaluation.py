"""How good a policy is: pass@1, pass@k, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from srpo_core.seeds import derive_seed, generator

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A share with its confidence interval, all within 0 to 1."""

    value: float
    low: float
    high: float


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate 1 - C(n - correct, k) / C(n, k) of solving a problem within k of n samples.

    Raises ValueError unless 0 <= correct <= n and 1 <= k <= n. Source: arXiv 2107.03374, equation 1.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= correct <= n and 1 <= k <= n, got n={n}, correct={correct}, k={k}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def estimate_pass_at_k(correct: Sequence[int], samples: int, k: int) -> Estimate:
    """pass@k over problems, `correct` right answers out of `samples` each, with its 95 % interval.

    pass@1 (k = 1) is the mean over all samples. Raises ValueError when there is no problem, or as `pass_at_k` does.
    """
    return estimate_mean([pass_at_k(samples, each, k) for each in correct])


def estimate_mean(scores: Sequence[float]) -> Estimate:
    """The mean of one score per problem, 0 to 1 each, with its 95 % interval: how it varies with the problems asked.

    The interval is a Bayesian bootstrap over problems (Rubin 1981): the mean under random weights of the problems.
    Besides the problems there is half a problem that is never solved and half a one that always is. They hardly
    matter among many; among few, or where all score alike, an interval without them is far too narrow or has no width
    (of 5 problems it holds the truth 82 times in 100, with them 96). With one sample a problem it is Jeffreys' interval
    of a binomial share. The same scores give the same interval, in any order. Raises ValueError for no scores.
    """
    if not len(scores):
        raise ValueError("the mean over no problems: evaluate at least one")
    values, counts = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
    mean = float(values @ counts) / len(scores)
    # Problems that score alike share a weight: a sum of exponential variables is a gamma variable.
    random = generator(derive_seed("interval", "bayesian bootstrap"))
    weights = random.gamma(np.concatenate([counts, [0.5, 0.5]]), size=(RESAMPLES, len(values) + 2))
    means = weights @ np.concatenate([values, [0.0, 1.0]]) / weights.sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(mean, max(0.0, min(mean, float(low))), min(1.0, max(mean, float(high))))
