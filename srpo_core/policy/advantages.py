"""What each rollout of a group is worth beside its siblings."""

import numpy as np
import numpy.typing as npt

# Rewards closer than this are equal: float sums of the same parts may differ in their last bits.
REWARD_TOLERANCE = 1e-6


def group_advantages(
    rewards: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64],
    *,
    scale_by_std: bool,
) -> npt.NDArray[np.float64]:
    """GRPO's A_i = (r_i - mean(r)) / std(r) over the rollouts of each group; the population's std.

    rewards float64 (N,), NaN where a rollout was not graded; groups int64 (N,), equal for the rollouts of one
    prompt. Gives float64 (N,): exact zeros for a group whose rewards are equal within REWARD_TOLERANCE and for
    ungraded rollouts, which do not enter the group's statistics. Source: arXiv 2402.03300, section 4.1.1;
    `scale_by_std=False` is arXiv 2503.20783 (Dr. GRPO).
    """
    advantages = np.zeros_like(rewards)
    graded = ~np.isnan(rewards)
    for group in np.unique(groups[graded]):
        members = graded & (groups == group)
        centred = rewards[members] - rewards[members].mean()
        if np.ptp(centred) <= REWARD_TOLERANCE:
            continue
        advantages[members] = centred / centred.std() if scale_by_std else centred
    return advantages
