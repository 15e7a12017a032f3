"""The losses of single terms, beside float64 references in Python loops, and what their gradients must be."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from srpo_core.policy.losses.cispo import cispo_losses
from srpo_core.policy.losses.clip import clip_losses
from srpo_core.policy.losses.gspo import gspo_losses
from srpo_core.policy.losses.ratio import LARGEST_LOG_RATIO, sequence_means, sequence_sums
from srpo_core.policy.losses.sampling import sampling_weights

LOW, HIGH, DUAL = 0.2, 0.28, 1.5
token = st.tuples(st.floats(-6, 0), st.floats(-1.5, 1.5), st.just(0.0) | st.floats(1e-3, 3) | st.floats(-3, -1e-3))
completions = st.lists(st.lists(token, max_size=6), min_size=1, max_size=6)
Token = tuple[float, float, float]  # log pi, log pi - log pi_old, advantage
Completions = list[list[Token]]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Any]


def plain(logprobs: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> Any:
    return clip_losses(logprobs, old, advantages, clip_low=LOW, clip_high=HIGH)


def dual(logprobs: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> Any:
    return clip_losses(logprobs, old, advantages, clip_low=LOW, clip_high=HIGH, dual_clip=DUAL)


def gspo(logprobs: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> Any:
    return gspo_losses(logprobs, old, advantages, lengths, clip_low=LOW, clip_high=HIGH)


def cispo(logprobs: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> Any:
    return cispo_losses(logprobs, old, advantages, clip_low=LOW, clip_high=HIGH)


LOSSES: dict[str, Loss] = {"plain": plain, "dual": dual, "gspo": gspo, "cispo": cispo}
loss_names = pytest.mark.parametrize("name", LOSSES)


def tensors(rows: Completions, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat = [each for row in rows for each in row]
    logprobs = torch.tensor([x for x, _, _ in flat], dtype=dtype, requires_grad=True)
    old = torch.tensor([x - d for x, d, _ in flat], dtype=dtype)
    advantages = torch.tensor([a for _, _, a in flat], dtype=dtype)
    return logprobs, old, advantages, torch.tensor([len(row) for row in rows], dtype=torch.long)


def of_one_advantage(rows: Completions) -> Completions:
    """Every token of a completion with its first token's advantage, as rollouts have it."""
    return [[(x, d, row[0][2]) for x, d, _ in row] for row in rows]


def off_the_corners(rows: Completions) -> bool:
    """Whether no ratio lies on a bound, where the derivative is not defined."""
    ratios = [math.exp(d) for row in rows for _, d, _ in row]
    ratios += [math.exp(sum(d for _, d, _ in row) / len(row)) for row in rows if row]
    return all(abs(ratio - bound) > 1e-6 for ratio in ratios for bound in (1 - LOW, 1 + HIGH, DUAL))


def slow(name: str, rows: Completions) -> tuple[list[float], list[float]]:
    """Losses and the derivative of their sum by each log-probability, from the formulas by cases."""
    losses, slopes = [], []
    for row in rows:
        for logprob, difference, a in row:
            log_ratio = math.fsum(d for _, d, _ in row) / len(row) if name == "gspo" else difference
            ratio = math.exp(log_ratio)
            inside = 1 - LOW if ratio < 1 - LOW else 1 + HIGH if ratio > 1 + HIGH else ratio
            if name == "cispo":
                losses.append(-inside * a * logprob)
                slopes.append(-inside * a)
                continue
            cut = (a > 0 and ratio > 1 + HIGH) or (a < 0 and ratio < 1 - LOW)
            value = inside if cut else ratio
            if name == "dual" and a < 0 and ratio > DUAL:
                cut, value = True, DUAL
            losses.append(-value * a)
            slopes.append(0.0 if cut else -ratio * a)
        if name == "gspo":  # every token of the mean moves the loss of every token
            slopes[len(slopes) - len(row) :] = [sum(slopes[len(slopes) - len(row) :]) / len(row)] * len(row)
    return losses, slopes


@loss_names
@settings(max_examples=60)
@given(completions)
def test_losses_and_gradients_equal_the_formula(name: str, rows: Completions) -> None:
    rows = of_one_advantage([row for row in rows if row]) if name == "gspo" else rows
    assume(off_the_corners(rows))
    given_tensors = tensors(rows)
    losses = LOSSES[name](*given_tensors).losses
    losses.sum().backward()
    expected, slopes = slow(name, rows)
    assert losses.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert given_tensors[0].grad.tolist() == pytest.approx(slopes, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ["plain", "dual", "gspo"])
@settings(max_examples=20)
@given(completions)
def test_the_gradient_is_the_loss_difference_over_a_small_step(name: str, rows: Completions) -> None:
    assume(off_the_corners(rows) and any(rows))
    logprobs, old, advantages, lengths = tensors(rows)
    LOSSES[name](logprobs, old, advantages, lengths).losses.sum().backward()
    assert logprobs.grad is not None
    for place, slope in enumerate(logprobs.grad.tolist()):
        step = torch.zeros_like(old)
        step[place] = 1e-7
        ends = [LOSSES[name](logprobs.detach() + s, old, advantages, lengths).losses.sum() for s in (step, -step)]
        assert float(ends[0] - ends[1]) / 2e-7 == pytest.approx(slope, abs=1e-5)


@loss_names
@settings(max_examples=30)
@given(completions)
def test_on_policy_the_gradient_is_minus_the_advantage(name: str, rows: Completions) -> None:
    on_policy = of_one_advantage([[(x, 0.0, a) for x, _, a in row] for row in rows])
    logprobs, old, advantages, lengths = tensors(on_policy)
    LOSSES[name](logprobs, old, advantages, lengths).losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx((-advantages).tolist(), rel=1e-12, abs=1e-12)


@loss_names
@settings(max_examples=30)
@given(completions)
def test_a_token_without_advantage_has_no_loss_and_no_gradient(name: str, rows: Completions) -> None:
    logprobs, old, _, lengths = tensors(rows)
    losses = LOSSES[name](logprobs, old, torch.zeros_like(old), lengths).losses
    losses.sum().backward()
    assert logprobs.grad is not None
    assert not losses.any()
    assert not logprobs.grad.any()


@pytest.mark.parametrize("name", ["plain", "gspo", "cispo"])
@settings(max_examples=30)
@given(completions)
def test_tokens_are_told_as_clipped_on_the_side_that_has_gone_far_enough(name: str, rows: Completions) -> None:
    assume(off_the_corners(rows))
    told = LOSSES[name](*tensors(rows))
    places = iter(range(sum(map(len, rows))))
    for row in rows:
        for (_, difference, a), place in zip(row, places, strict=False):
            change = sum(d for _, d, _ in row) / len(row) if name == "gspo" else difference
            assert bool(told.low[place]) == (math.exp(change) < 1 - LOW and a < 0)
            assert bool(told.high[place]) == (math.exp(change) > 1 + HIGH and a > 0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "learns", "learns_with_dual_clip"),
    [
        (1.27, 1.0, True, True),
        (1.29, 1.0, False, False),  # more of a good token, but it has been raised enough
        (1.29, -1.0, True, True),
        (1.49, -1.0, True, True),
        (1.51, -1.0, True, False),  # a bad token that has been raised is pushed down, up to the dual clip
        (1.51, 1.0, False, False),
        (0.81, -1.0, True, True),
        (0.79, -1.0, False, False),
        (0.79, 1.0, True, True),
        (0.1, 1.0, True, True),
    ],
)
def test_only_the_side_that_has_gone_far_enough_is_clipped(
    ratio: float, advantage: float, learns: bool, learns_with_dual_clip: bool
) -> None:
    for loss, expected in ((plain, learns), (dual, learns_with_dual_clip)):
        given_tensors = tensors([[(-1.0, math.log(ratio), advantage)]])
        loss(*given_tensors).losses.sum().backward()
        assert bool(given_tensors[0].grad) == expected


def test_no_token_of_cispo_is_without_a_gradient() -> None:
    given_tensors = tensors([[(-1.0, d, a) for d in (-3.0, -0.5, 0.0, 0.5, 3.0) for a in (-1.0, 1.0)]])
    cispo(*given_tensors).losses.sum().backward()
    assert given_tensors[0].grad.all()


def test_one_token_far_off_does_not_move_a_completion_of_gspo_as_it_moves_a_token() -> None:
    row = [(-1.0, 0.0, 1.0)] * 9 + [(-1.0, math.log(2.0), 1.0)]
    told = gspo(*tensors([row]))
    assert not told.high.any()
    assert told.losses.tolist() == pytest.approx([-(2**0.1)] * 10)


@loss_names
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("difference", [-1e5, -90.0, 90.0, 1e5, -math.inf])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_that_overflows_gives_numbers(
    name: str, dtype: torch.dtype, difference: float, advantage: float
) -> None:
    logprob = -math.inf if difference == -math.inf else -1.0
    old = -1.0 if logprob == -math.inf else logprob - difference
    logprobs = torch.tensor([logprob, -1.0], dtype=dtype, requires_grad=True)
    advantages = torch.tensor([advantage, advantage], dtype=dtype)
    losses = LOSSES[name](logprobs, torch.tensor([old, -1.0], dtype=dtype), advantages, torch.tensor([1, 1])).losses
    losses.sum().backward()
    assert logprobs.grad is not None
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logprobs.grad).all()
    assert logprobs.grad[1] == pytest.approx(-advantage)


@loss_names
def test_a_nan_is_not_hidden(name: str) -> None:
    logprobs, old, advantages, lengths = tensors([[(math.nan, 0.0, 1.0)], [(-1.0, 0.0, 1.0)]])
    losses = LOSSES[name](logprobs, old, advantages, lengths).losses
    assert torch.isnan(losses).tolist() == [True, False]


@loss_names
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_without_tokens_there_is_no_loss(name: str, lengths: list[int]) -> None:
    nothing = torch.zeros(0, requires_grad=True)
    losses = LOSSES[name](nothing, nothing, nothing, torch.tensor(lengths, dtype=torch.long)).losses
    assert losses.sum().item() == 0.0


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(-5, 5), max_size=5), min_size=1, max_size=6))
def test_sums_and_means_over_completions_are_those_of_their_tokens(rows: list[list[float]]) -> None:
    flat = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    assert sequence_sums(flat, lengths).tolist() == pytest.approx([math.fsum(row) for row in rows], abs=1e-12)
    expected = [math.fsum(row) / len(row) if row else 0.0 for row in rows]
    assert sequence_means(flat, lengths).tolist() == pytest.approx(expected, abs=1e-12)


differences = st.lists(st.lists(st.floats(-2, 2), max_size=5), min_size=1, max_size=5)


@settings(max_examples=50)
@given(differences, st.floats(1, 4))
def test_sampling_weights_are_the_truncated_ratio_of_token_or_completion(
    rows: Sequence[Sequence[float]], cap: float
) -> None:
    flat = torch.tensor([d for row in rows for d in row], dtype=torch.float64)
    sampler, lengths = torch.full_like(flat, -3.0), torch.tensor([len(row) for row in rows])
    old = (sampler + flat).requires_grad_()
    by_token = sampling_weights("token", old, sampler, lengths, cap=cap)
    by_completion = sampling_weights("sequence", old, sampler, lengths, cap=cap)
    assert by_token.tolist() == pytest.approx([min(math.exp(d), cap) for row in rows for d in row])
    expected = [min(math.exp(math.fsum(row)), cap) for row in rows for _ in row]
    assert by_completion.tolist() == pytest.approx(expected)
    assert not by_token.requires_grad
    assert not by_completion.requires_grad


def test_a_sampling_ratio_that_overflows_is_the_cap() -> None:
    old, sampler = torch.tensor([-1.0, -1.0]), torch.tensor([-200.0, -1.0])
    assert sampling_weights("token", old, sampler, torch.tensor([2]), cap=2.0).tolist() == [2.0, 1.0]
    assert sampling_weights("sequence", old, sampler, torch.tensor([2]), cap=2.0).tolist() == [2.0, 2.0]
    assert math.exp(LARGEST_LOG_RATIO) < torch.finfo(torch.float32).max / 1e20
