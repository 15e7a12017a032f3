"""Properties of the advantages, beside references in Python loops and exact fractions of the given floats."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_core.policy.advantages import advantages_of
from srpo_core.settings.update import AdvantageKind

NAN = float("nan")
KINDS: tuple[AdvantageKind, ...] = get_args(AdvantageKind)
GROUPED: tuple[AdvantageKind, ...] = ("group_std", "group_mean", "leave_one_out", "batch_std")
UNITLESS: tuple[AdvantageKind, ...] = ("group_std", "batch_std", "batch_normalised")
# Multiples of 1/16 below 4: sums are exact, and distinct values are far apart for the tolerance.
values = st.integers(-64, 64).map(lambda n: n / 16)
rollouts = st.lists(st.tuples(st.integers(0, 4), values | st.just(NAN)), min_size=1, max_size=24)
Rows = list[tuple[int, float]]


def advantages(kind: AdvantageKind, rewards: list[float], groups: list[int]) -> list[float]:
    return [float(value) for value in advantages_of(kind, np.array(rewards), np.array(groups))]


def parted(rows: Rows) -> tuple[list[float], list[int]]:
    return [reward for _, reward in rows], [group for group, _ in rows]


def mean(numbers: list[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0)) / len(numbers)


def deviation(numbers: list[Fraction]) -> float:
    """Root of the mean over all pairs of half the squared difference, which is the population's deviation."""
    pairs = [(a - b) ** 2 / 2 for a in numbers for b in numbers]
    return math.sqrt(mean(pairs))


def reference(kind: AdvantageKind, rows: Rows) -> list[float]:
    graded = [Fraction(reward) for _, reward in rows if not math.isnan(reward)]
    result = []
    for place, (group, reward) in enumerate(rows):
        if math.isnan(reward):
            result.append(0.0)
            continue
        own = Fraction(reward)
        others = [Fraction(r) for n, (g, r) in enumerate(rows) if n != place and g == group and not math.isnan(r)]
        siblings = [*others, own]
        if (max(graded) == min(graded)) if kind == "batch_normalised" else (max(siblings) == min(siblings)):
            result.append(0.0)
        elif kind == "group_std":
            result.append(float(own - mean(siblings)) / deviation(siblings))
        elif kind == "group_mean":
            result.append(float(own - mean(siblings)))
        elif kind == "leave_one_out":
            result.append(float(own - mean(others)))
        elif kind == "batch_std":
            result.append(float(own - mean(siblings)) / deviation(graded))
        else:
            result.append(float(own - mean(graded)) / deviation(graded))
    return result


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(rollouts)
def test_advantages_equal_their_definition(kind: AdvantageKind, rows: Rows) -> None:
    assert advantages(kind, *parted(rows)) == pytest.approx(reference(kind, rows), rel=1e-12, abs=1e-12)


@given(rollouts, st.booleans())
def test_the_groups_own_statistics_equal_the_formula_in_floats(
    slow_advantages: Callable[..., list[float]], rows: Rows, scale_by_std: bool
) -> None:
    rewards, groups = parted([(group, reward * 1.1) for group, reward in rows])
    expected = slow_advantages(rewards, groups, scale_by_std)
    measured = advantages("group_std" if scale_by_std else "group_mean", rewards, groups)
    assert measured == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(rollouts, st.integers(-8, 8))
def test_a_constant_added_to_every_reward_changes_nothing(kind: AdvantageKind, rows: Rows, constant: int) -> None:
    shifted = [(group, reward + constant) for group, reward in rows]
    assert advantages(kind, *parted(shifted)) == pytest.approx(advantages(kind, *parted(rows)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", GROUPED)
@settings(max_examples=30)
@given(rollouts, st.lists(st.integers(-8, 8), min_size=5, max_size=5))
def test_where_the_baseline_is_the_groups_a_constant_of_its_own_moves_only_the_unit(
    kind: AdvantageKind, rows: Rows, constants: list[int]
) -> None:
    shifted = [(group, reward + constants[group]) for group, reward in rows]
    one, other = np.array(advantages(kind, *parted(rows))), np.array(advantages(kind, *parted(shifted)))
    if kind == "batch_std" and np.any(one):
        one, other = one / np.abs(one).max(), other / np.abs(other).max()
    assert other == pytest.approx(one, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(rollouts, st.sampled_from([0.5, 2.0, 8.0]))
def test_the_unit_of_the_reward_counts_only_without_a_deviation(kind: AdvantageKind, rows: Rows, factor: float) -> None:
    scaled = advantages(kind, *parted([(group, reward * factor) for group, reward in rows]))
    expected = np.array(advantages(kind, *parted(rows))) * (1.0 if kind in UNITLESS else factor)
    assert scaled == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(rollouts)
def test_advantages_sum_to_zero_over_what_they_are_compared_with(kind: AdvantageKind, rows: Rows) -> None:
    result, groups = advantages(kind, *parted(rows)), np.array(parted(rows)[1])
    sums = [np.sum(result)] if kind == "batch_normalised" else [np.sum(np.array(result)[groups == g]) for g in groups]
    assert sums == pytest.approx(np.zeros(len(sums)), abs=1e-9)


@given(rollouts)
def test_scaled_advantages_of_a_group_have_variance_one(rows: Rows) -> None:
    rewards, groups = np.array(parted(rows)[0]), np.array(parted(rows)[1])
    result = advantages_of("group_std", rewards, groups)
    for group in set(groups):
        members = result[(groups == group) & ~np.isnan(rewards)]
        assert not np.any(members) or np.mean(members**2) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(rollouts, st.randoms(use_true_random=False))
def test_the_order_of_the_batch_does_not_matter(kind: AdvantageKind, rows: Rows, random: Any) -> None:
    places = list(range(len(rows)))
    random.shuffle(places)
    shuffled = advantages(kind, *parted([rows[place] for place in places]))
    expected = advantages(kind, *parted(rows))
    assert shuffled == pytest.approx([expected[place] for place in places], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(rollouts)
def test_ungraded_rollouts_are_as_if_they_had_not_been(kind: AdvantageKind, rows: Rows) -> None:
    result = advantages(kind, *parted(rows))
    graded = [place for place, (_, reward) in enumerate(rows) if not math.isnan(reward)]
    assert all(result[place] == 0.0 for place in range(len(rows)) if place not in graded)
    if graded:
        assert [result[place] for place in graded] == advantages(kind, *parted([rows[place] for place in graded]))


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_equal_within_the_tolerance_give_exact_zeros(kind: AdvantageKind) -> None:
    nearly = [0.1 + 0.2, 0.3, 0.3 + 5e-7, 0.3]
    assert advantages(kind, nearly, [7] * 4) == [0.0] * 4
    alone = advantages(kind, [*nearly, 1.0, 0.0], [7] * 4 + [8] * 2)
    assert (alone[:4] == [0.0] * 4) == (kind != "batch_normalised")


@pytest.mark.parametrize("kind", UNITLESS)
def test_rewards_just_beyond_the_tolerance_are_compared(kind: AdvantageKind) -> None:
    assert advantages(kind, [0.0, 3e-6], [0, 0]) == pytest.approx([-1.0, 1.0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rewards", [[NAN, 1.0, NAN], [NAN] * 3, []])
def test_where_nothing_can_be_compared_there_is_no_advantage(kind: AdvantageKind, rewards: list[float]) -> None:
    with np.errstate(all="raise"):
        result = advantages_of(kind, np.array(rewards), np.zeros(len(rewards), dtype=np.int64))
    assert result.tolist() == [0.0] * len(rewards)


def test_a_known_group() -> None:
    rewards = [1.0, 0.0, 0.0, 0.0]
    assert advantages("group_std", rewards, [0] * 4) == pytest.approx([3**0.5, *[-(3**-0.5)] * 3])
    assert advantages("group_mean", rewards, [0] * 4) == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert advantages("leave_one_out", rewards, [0] * 4) == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_rollout_gets_nothing_and_still_counts_for_its_siblings(kind: AdvantageKind) -> None:
    rewards, groups = np.array([1.0, 0.0, 0.5, 0.0]), np.zeros(4, dtype=np.int64)
    whole = advantages_of(kind, rewards, groups)
    masked = advantages_of(kind, rewards, groups, truncated=np.array([False, True, False, True]))
    assert masked.tolist() == [whole[0], 0.0, whole[2], 0.0]
    assert np.all(whole[[1, 3]] != 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rewards_that_were_given_stay_as_they_are(kind: AdvantageKind) -> None:
    rewards = np.array([1.0, 0.0, NAN])
    advantages_of(kind, rewards, np.zeros(3, dtype=np.int64))
    np.testing.assert_array_equal(rewards, [1.0, 0.0, NAN])
