"""Which prompts of an epoch meet in which step."""

from collections.abc import Sequence

import numpy as np

from srpo_core.seeds import derive_seed, generator


def schedule_epoch(
    prompt_ids: Sequence[str], *, prompts_per_step: int, run_seed: int, stage: int, epoch: int
) -> list[list[str]]:
    """The prompts of each step: every prompt once, in an order of this epoch's own.

    Steps are as few as `prompts_per_step` allows and differ by one prompt at most: a small last batch would weigh
    its prompts more than the others. The order depends on the set of prompts, not on how they were listed.
    """
    if not prompt_ids:
        return []
    order = generator(derive_seed(run_seed, "order", stage, epoch)).permutation(sorted(prompt_ids))
    n_steps = -(-len(order) // prompts_per_step)
    return [[str(prompt_id) for prompt_id in share] for share in np.array_split(order, n_steps)]
