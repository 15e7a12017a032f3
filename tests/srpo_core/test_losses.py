"""Properties of the clipped token loss, against Python loops over the formula in float64."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from srpo_core.policy.losses import LossSums, clipped_loss_sums

LOW, HIGH = 0.2, 0.28
tokens = st.lists(
    st.tuples(st.floats(-6, 0), st.floats(-1.5, 1.5), st.just(0.0) | st.floats(1e-3, 3) | st.floats(-3, -1e-3)),
    min_size=1,
    max_size=30,
)
Tokens = list[tuple[float, float, float]]


def loss_and_gradient(rows: Tokens) -> tuple[LossSums, list[float]]:
    """`rows` are (log pi, log pi - log pi_old, advantage)."""
    logprobs = torch.tensor([row[0] for row in rows], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([row[0] - row[1] for row in rows], dtype=torch.float64)
    weights = torch.tensor([row[2] for row in rows], dtype=torch.float64)
    sums = clipped_loss_sums(logprobs, old, weights, clip_low=LOW, clip_high=HIGH)
    sums.loss.backward()
    assert logprobs.grad is not None
    return sums, logprobs.grad.tolist()


def off_the_corners(rows: Tokens) -> bool:
    """Whether no ratio lies on a bound, where the derivative is not defined."""
    return all(abs(math.exp(d) - bound) > 1e-9 for _, d, _ in rows for bound in (1 - LOW, 1 + HIGH))


@given(tokens)
def test_the_loss_equals_the_formula(rows: Tokens) -> None:
    expected = 0.0
    for _, difference, advantage in rows:
        ratio = math.exp(difference)
        clipped = min(max(ratio, 1 - LOW), 1 + HIGH)
        expected -= min(ratio * advantage, clipped * advantage)
    assert loss_and_gradient(rows)[0].loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(tokens)
def test_the_gradient_equals_the_formulas_derivative(rows: Tokens) -> None:
    assume(off_the_corners(rows))
    expected = []
    for _, difference, advantage in rows:
        ratio = math.exp(difference)
        cut = (advantage > 0 and ratio > 1 + HIGH) or (advantage < 0 and ratio < 1 - LOW)
        expected.append(0.0 if cut else -advantage * ratio)  # d exp(x) / dx = exp(x)
    assert loss_and_gradient(rows)[1] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "learns"),
    [
        (1.27, 1.0, True),
        (1.29, 1.0, False),  # more of a good token, but it has been raised enough
        (1.29, -1.0, True),
        (5.0, -1.0, True),  # a bad token that has been raised is always pushed down
        (0.81, -1.0, True),
        (0.79, -1.0, False),
        (0.79, 1.0, True),
        (0.1, 1.0, True),
    ],
)
def test_only_the_side_that_has_gone_far_enough_is_clipped(ratio: float, advantage: float, learns: bool) -> None:
    _, gradient = loss_and_gradient([(-1.0, math.log(ratio), advantage)])
    assert (gradient[0] != 0.0) == learns


def test_on_policy_the_gradient_is_minus_the_advantage() -> None:
    advantages = [2.0, -0.5, 0.0, 1e-3]
    _, gradient = loss_and_gradient([(-1.0, 0.0, advantage) for advantage in advantages])
    assert gradient == pytest.approx([-advantage for advantage in advantages])


@given(tokens)
def test_the_counts_are_of_the_tokens_whose_gradient_is_cut(rows: Tokens) -> None:
    assume(off_the_corners(rows))
    sums, gradient = loss_and_gradient(rows)
    cut = [a for (_, _, a), slope in zip(rows, gradient, strict=True) if slope == 0.0]
    assert sums.clipped_high.item() == sum(a > 0 for a in cut)
    assert sums.clipped_low.item() == sum(a < 0 for a in cut)


@given(tokens)
def test_the_divergence_is_never_negative_and_the_difference_is_the_largest(rows: Tokens) -> None:
    sums, _ = loss_and_gradient(rows)
    assert sums.approximate_kl.item() >= -1e-9
    assert sums.largest_difference.item() == pytest.approx(max(abs(d) for _, d, _ in rows), abs=1e-9)
    assert not sums.approximate_kl.requires_grad
