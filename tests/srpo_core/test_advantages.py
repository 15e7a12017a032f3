"""Properties of the group-relative advantage."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.policy.advantages import group_advantages

NAN = float("nan")
rollouts = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.1, 1.0, 1.1, NAN]) | st.floats(-5, 5)), min_size=1, max_size=40
)


def advantages(rewards: list[float], groups: list[int], *, scale_by_std: bool = True) -> list[float]:
    values = group_advantages(np.array(rewards), np.array(groups), scale_by_std=scale_by_std)
    return [float(value) for value in values]


@given(rollouts, st.booleans())
def test_advantages_equal_the_formula(
    slow_advantages: Callable[..., list[float]], rows: list[tuple[int, float]], scale_by_std: bool
) -> None:
    groups, rewards = [group for group, _ in rows], [reward for _, reward in rows]
    expected = slow_advantages(rewards, groups, scale_by_std)
    assert advantages(rewards, groups, scale_by_std=scale_by_std) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(rollouts)
def test_scaled_advantages_of_a_group_have_mean_zero_and_variance_one(rows: list[tuple[int, float]]) -> None:
    groups, rewards = np.array([group for group, _ in rows]), np.array([reward for _, reward in rows])
    values = group_advantages(rewards, groups, scale_by_std=True)
    for group in set(groups):
        members = values[(groups == group) & ~np.isnan(rewards)]
        if np.any(members != 0.0):
            assert members.mean() == pytest.approx(0, abs=1e-6)
            assert np.mean(members**2) == pytest.approx(1, rel=1e-6)


def test_a_known_group() -> None:
    assert advantages([1.0, 0.0, 0.0, 0.0], [0] * 4) == pytest.approx([3**0.5, *[-(3**-0.5)] * 3])


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_rewards_equal_within_the_tolerance_give_exact_zeros(scale_by_std: bool) -> None:
    nearly = [0.1 + 0.2, 0.3, 0.3 + 5e-7, 0.3]
    assert advantages(nearly, [7] * 4, scale_by_std=scale_by_std) == [0.0] * 4


def test_rewards_just_beyond_the_tolerance_are_compared() -> None:
    assert advantages([0.0, 3e-6], [0, 0]) == pytest.approx([-1.0, 1.0])


def test_ungraded_rollouts_leave_the_statistics() -> None:
    assert advantages([1.0, NAN, 0.0, NAN], [0] * 4) == pytest.approx([1.0, 0.0, -1.0, 0.0])


def test_one_graded_rollout_alone_has_no_advantage() -> None:
    assert advantages([NAN, 1.0, NAN], [0] * 3) == [0.0] * 3


def test_a_batch_in_which_nothing_was_graded_has_no_advantage() -> None:
    assert advantages([NAN] * 4, [0, 0, 1, 1]) == [0.0] * 4


def test_a_group_is_one_wherever_its_rollouts_stand_in_the_batch() -> None:
    assert advantages([1.0, 5.0, 0.0, 3.0], [9, 4, 9, 4]) == pytest.approx([1.0, 1.0, -1.0, -1.0])


def test_the_rewards_that_were_given_stay_as_they_are() -> None:
    rewards = np.array([1.0, 0.0, NAN])
    group_advantages(rewards, np.zeros(3, dtype=np.int64), scale_by_std=True)
    np.testing.assert_array_equal(rewards, [1.0, 0.0, NAN])
