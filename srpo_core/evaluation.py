"""How good a policy is: pass@1, pass@k, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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


def pass_at_1(correct: Sequence[int], samples: int, *, z: float = 1.96) -> Estimate:
    """pass@1 over problems, `correct` right answers out of `samples` each, with a confidence interval.

    Samples of one problem are not independent, so the interval is Wilson's on an effective number of trials:
    p(1 - p) over the variance of the mean across problems, at least the number of problems where they do not vary.
    Raises ValueError when there is no problem.
    """
    if not correct:
        raise ValueError("pass@1 of no problems: evaluate at least one")
    counts = np.asarray(correct, dtype=np.float64)  # whole numbers: equal counts have a variance of exactly zero
    p = float(counts.mean()) / samples
    variance = float(counts.var(ddof=1)) / samples**2 / len(counts) if len(counts) > 1 else 0.0
    trials = p * (1 - p) / variance if variance > 0 and 0 < p < 1 else float(len(counts))
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))
