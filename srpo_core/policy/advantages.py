"""What each rollout is worth beside others: what its reward is compared with, and in which unit.

Every function takes `rewards` float64 (N,), NaN where a rollout was not graded, and `groups` int64 (N,), equal for the
rollouts of one prompt, and gives float64 (N,). An ungraded rollout gets 0 and enters no mean and no deviation.
Rewards that are equal within REWARD_TOLERANCE give exact zeros. Every standard deviation is the population's.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from srpo_core.settings.update import AdvantageKind

# Rewards closer than this are equal: float sums of the same parts may differ in their last bits.
REWARD_TOLERANCE = 1e-6

Rewards = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


def group_std(rewards: Rewards, groups: Groups) -> Rewards:
    """(r - mean) / std of the group. Source: arXiv 2402.03300 (GRPO), section 4.1.1."""
    advantages = np.zeros_like(rewards)
    for members in _unequal_groups(rewards, groups):
        centred = rewards[members] - rewards[members].mean()
        advantages[members] = centred / centred.std()
    return advantages


def group_mean(rewards: Rewards, groups: Groups) -> Rewards:
    """r - mean of the group. Source: arXiv 2503.20783 (Dr. GRPO), section 3."""
    advantages = np.zeros_like(rewards)
    for members in _unequal_groups(rewards, groups):
        advantages[members] = rewards[members] - rewards[members].mean()
    return advantages


def leave_one_out(rewards: Rewards, groups: Groups) -> Rewards:
    """r - mean of the group's other rollouts. Source: arXiv 2402.14740 (RLOO), section 2.2."""
    advantages = np.zeros_like(rewards)
    for members in _unequal_groups(rewards, groups):
        count = int(members.sum())
        advantages[members] = (rewards[members] - rewards[members].mean()) * (count / (count - 1))
    return advantages


def batch_std(rewards: Rewards, groups: Groups) -> Rewards:
    """(r - mean of the group) / std of the batch's rewards. Source: arXiv 2508.08221 (Lite PPO), section 4.1."""
    advantages = group_mean(rewards, groups)
    if np.any(advantages != 0.0):  # so the batch's deviation is not 0 either
        advantages /= rewards[~np.isnan(rewards)].std()
    return advantages


def batch_normalised(rewards: Rewards, groups: Groups) -> Rewards:
    """(r - mean) / std over the whole batch, whatever the groups. Source: arXiv 2501.03262 (REINFORCE++), section 3.

    A group whose rewards are equal has an advantage here when other groups fare otherwise.
    """
    return group_std(rewards, np.zeros_like(groups))


_KINDS = {
    "group_std": group_std,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
    "batch_std": batch_std,
    "batch_normalised": batch_normalised,
}


def advantages_of(
    kind: AdvantageKind, rewards: Rewards, groups: Groups, truncated: npt.NDArray[np.bool_] | None = None
) -> Rewards:
    """Advantages of the kind that the settings name. Rollouts marked in `truncated` bool (N,) get 0.

    A truncated rollout's reward still enters what its siblings are compared with.
    """
    advantages = _KINDS[kind](rewards, groups)
    return advantages if truncated is None else np.where(truncated, 0.0, advantages)


def _unequal_groups(rewards: Rewards, groups: Groups) -> Iterator[npt.NDArray[np.bool_]]:
    """The graded members of each group whose rewards differ, bool (N,)."""
    graded = ~np.isnan(rewards)
    for group in np.unique(groups[graded]):
        members = graded & (groups == group)
        if np.ptp(rewards[members]) > REWARD_TOLERANCE:
            yield members
