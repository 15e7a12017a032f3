"""Properties of pass@1 and pass@k."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.evaluation import pass_at_1, pass_at_k


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


@given(st.integers(1, 16), st.data())
def test_the_interval_holds_the_mean_and_stays_within_0_and_1(samples: int, data: st.DataObject) -> None:
    correct = data.draw(st.lists(st.integers(0, samples), min_size=1, max_size=40))
    estimate = pass_at_1(correct, samples)
    assert estimate.value == pytest.approx(sum(correct) / len(correct) / samples)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@given(st.integers(1, 16), st.integers(2, 5), st.data())
def test_the_interval_is_narrower_with_more_problems_of_the_kind(samples: int, times: int, data: st.DataObject) -> None:
    correct = data.draw(st.lists(st.integers(0, samples), min_size=2, max_size=20))
    few, many = pass_at_1(correct, samples), pass_at_1(correct * times, samples)
    assert many.high - many.low < few.high - few.low


@given(st.integers(1, 30), st.integers(2, 16), st.data())
def test_problems_that_do_not_vary_count_as_one_trial_each(n: int, samples: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, samples))
    estimate, one_each = pass_at_1([correct] * n, samples), 0.5 / n
    assert estimate.high - estimate.low > min(one_each, 0.1)
    p = correct / samples  # Wilson's interval is where |x - p| = z sqrt(x (1 - x) / n)
    for bound in (estimate.low, estimate.high):
        if 0 < bound < 1:
            assert abs(bound - p) == pytest.approx(1.96 * (bound * (1 - bound) / n) ** 0.5, rel=1e-6)


def test_more_samples_of_the_same_problems_do_not_pass_for_more_problems() -> None:
    once = pass_at_1([0, 1] * 20, 1)
    copied = pass_at_1([0, 16] * 20, 16)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.3, 0.3), (3.0, 1.0), (20.0, 20.0)])
@pytest.mark.parametrize("samples", [1, 4])
def test_the_interval_covers_the_truth_about_95_times_in_100(a: float, b: float, samples: int) -> None:
    random = np.random.default_rng(5)
    truth, covered, repeats = a / (a + b), 0, 1500
    for _ in range(repeats):
        estimate = pass_at_1(random.binomial(samples, random.beta(a, b, 60)).tolist(), samples)
        covered += estimate.low <= truth <= estimate.high
    assert 0.93 <= covered / repeats <= 0.975


def test_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pass_at_1([], 4)
