"""The learning rate of each optimizer step, as a pure function of how many were taken."""

import math


def learning_rate_share(
    steps_taken: int, *, warmup_steps: int, decay_steps: int | None = None, final_share: float = 0.0
) -> float:
    """The share of the highest learning rate that the next optimizer step uses, in [0, 1].

    It rises linearly over `warmup_steps`, so that step n (from 1) uses n / warmup_steps. After that it stays, or falls
    along half a cosine over `decay_steps` to `final_share`, where it stays.
    """
    if steps_taken < warmup_steps:
        return (steps_taken + 1) / warmup_steps
    if decay_steps is None:
        return 1.0
    progress = min(1.0, (steps_taken - warmup_steps) / decay_steps)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2
