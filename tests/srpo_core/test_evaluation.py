"""Properties of pass@1 and pass@k."""

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_core.evaluation import estimate_mean, estimate_pass_at_k, pass_at_k


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_equals_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for correct in range(n + 1):
        samples = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            hits = [any(subset) for subset in combinations(samples, k)]
            assert pass_at_k(n, correct, k) == pytest.approx(sum(hits) / len(hits), abs=1e-12)


@given(st.integers(1, 400), st.data())
def test_pass_at_k_is_a_share_that_grows_with_k(n: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    value = pass_at_k(n, correct, k)
    assert 0 <= value <= 1
    assert pass_at_k(n, correct, 1) == pytest.approx(correct / n, abs=1e-9)
    assert k == n or pass_at_k(n, correct, k + 1) >= value


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_of_impossible_counts_is_refused(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}, correct={correct}, k={k}"):
        pass_at_k(n, correct, k)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_over_problems_is_the_mean_over_all_subsets_of_their_samples(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, min(n, 4)))
    correct = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=4))
    shares = []
    for each in correct:
        subsets = list(combinations([True] * each + [False] * (n - each), k))
        shares.append(sum(map(any, subsets)) / len(subsets))
    assert estimate_pass_at_k(correct, n, k).value == pytest.approx(sum(shares) / len(shares))


@settings(max_examples=30)
@given(st.integers(1, 16), st.data())
def test_the_interval_holds_the_mean_and_stays_within_0_and_1(samples: int, data: st.DataObject) -> None:
    correct = data.draw(st.lists(st.integers(0, samples), min_size=1, max_size=40))
    estimate = estimate_pass_at_k(correct, samples, 1)
    assert estimate.value == pytest.approx(sum(correct) / len(correct) / samples)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.randoms())
def test_the_same_scores_give_the_same_interval_in_any_order(scores: list[float], random: Random) -> None:
    shuffled = random.sample(scores, len(scores))
    assert estimate_mean(shuffled) == estimate_mean(scores)


@settings(max_examples=30)
@given(st.integers(1, 16), st.integers(2, 5), st.data())
def test_the_interval_is_narrower_with_more_problems_of_the_kind(samples: int, times: int, data: st.DataObject) -> None:
    correct = data.draw(st.lists(st.integers(0, samples), min_size=2, max_size=20))
    few, many = estimate_pass_at_k(correct, samples, 1), estimate_pass_at_k(correct * times, samples, 1)
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(("n", "solved"), [(1, 0), (1, 1), (4, 0), (5, 2), (12, 11), (60, 30), (200, 0)])
def test_one_sample_a_problem_gives_jeffreys_interval(n: int, solved: int) -> None:
    shares = np.linspace(0, 1, 200_001)[1:-1]
    density = shares ** (solved - 0.5) * (1 - shares) ** (n - solved - 0.5)
    cumulative = density.cumsum() / density.sum()
    low, high = (shares[np.searchsorted(cumulative, level)] for level in (0.025, 0.975))
    estimate = estimate_mean([1.0] * solved + [0.0] * (n - solved))
    assert estimate.low == pytest.approx(min(low, solved / n), abs=0.01)
    assert estimate.high == pytest.approx(max(high, solved / n), abs=0.01)


def test_the_interval_is_that_of_exponential_weights_of_each_problem() -> None:
    scores = [0.0, 0.25, 0.25, 0.5, 0.5, 0.5, 1.0]
    random = np.random.default_rng(3)
    weights = random.exponential(size=(100_000, len(scores)))
    halves = random.gamma(0.5, size=(100_000, 2))
    means = (weights @ scores + halves[:, 1]) / (weights.sum(1) + halves.sum(1))
    estimate = estimate_mean(scores)
    np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(means, [0.025, 0.975]), atol=0.01)


def test_more_samples_of_the_same_problems_do_not_pass_for_more_problems() -> None:
    once = estimate_pass_at_k([0, 1] * 20, 1, 1)
    copied = estimate_pass_at_k([0, 16] * 20, 16, 1)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize("problems", [3, 60])
@pytest.mark.parametrize(("a", "b"), [(0.3, 0.3), (3.0, 1.0)])
@pytest.mark.parametrize("samples", [1, 4])
def test_the_interval_covers_the_truth_about_95_times_in_100(a: float, b: float, samples: int, problems: int) -> None:
    random = np.random.default_rng(5)
    truth, covered, repeats = a / (a + b), 0, 150
    for _ in range(repeats):
        correct = random.binomial(samples, random.beta(a, b, problems)).tolist()
        estimate = estimate_pass_at_k(correct, samples, 1)
        covered += estimate.low <= truth <= estimate.high
    assert covered / repeats >= 0.9
    assert problems < 60 or covered / repeats <= 0.985


def test_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate_mean([])
