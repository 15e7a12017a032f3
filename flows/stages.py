"""The two training stages of SRPO, as the history numbers them; 0 is the base policy, before training."""

from srpo_core.config import Settings

MATH = 1
MATH_AND_CODE = 2


def step_limit(settings: Settings, stage: int) -> int:
    """The number of steps after which a stage ends with its epoch."""
    return (settings.stages.math if stage == MATH else settings.stages.math_and_code).max_steps
