"""The divergence, the means, and the whole loss of a micro-batch, beside a float64 reference with autograd."""

import math
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srpo_core.policy.losses.kl import kl_estimates, kl_losses
from srpo_core.policy.losses.mean import token_weights
from srpo_core.policy.losses.objective import TokenReport, Tokens, objective
from srpo_core.settings.update import ImportanceSampling, KlEstimator, LossMean, PolicyLoss, UpdateSettings

RANGE = {"clip_low": 0.3, "clip_high": 0.4}
lengths_lists = st.lists(st.integers(0, 6), min_size=1, max_size=8)
estimators = pytest.mark.parametrize("estimator", get_args(KlEstimator))


def distributions(seed: int) -> list[Tensor]:
    """Logits of a policy, of the one that sampled, and of a reference, over 5 tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3)]


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum()


def gradient(value: Tensor, by: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, by)
    return result


@estimators
@pytest.mark.parametrize("seed", range(3))
def test_estimates_are_schulmans(estimator: KlEstimator, seed: int) -> None:
    policy, _, reference = distributions(seed)
    estimates = kl_estimates(estimator, policy.log_softmax(0), reference.log_softmax(0))
    ratios = (reference.softmax(0) / policy.softmax(0)).tolist()
    formula = {"k1": lambda r: -math.log(r), "k2": lambda r: math.log(r) ** 2 / 2, "k3": lambda r: r - 1 - math.log(r)}
    assert estimates.tolist() == pytest.approx([formula[estimator](r) for r in ratios])
    if estimator != "k2":  # their mean is the divergence itself
        assert float((policy.softmax(0) * estimates).sum()) == pytest.approx(float(divergence(policy, reference)))


@estimators
@pytest.mark.parametrize("seed", range(3))
def test_the_expected_gradient_on_policy_is_a_divergences(estimator: KlEstimator, seed: int) -> None:
    policy, _, reference = distributions(seed)
    policy.requires_grad_()
    logprobs = policy.log_softmax(0)
    losses = kl_losses(estimator, logprobs, logprobs.detach(), reference.log_softmax(0))
    measured = gradient((policy.softmax(0).detach() * losses).sum(), policy)
    exact = divergence(reference, policy) if estimator == "k3" else divergence(policy, reference)
    assert torch.allclose(measured, gradient(exact, policy), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_gradient_of_k1_is_the_divergences_off_policy_too(seed: int) -> None:
    policy, sampler, reference = distributions(seed)
    policy.requires_grad_()
    losses = kl_losses("k1", policy.log_softmax(0), sampler.log_softmax(0), reference.log_softmax(0))
    measured = gradient((sampler.softmax(0) * losses).sum(), policy)
    assert torch.allclose(measured, gradient(divergence(policy, reference), policy), atol=1e-12)


@estimators
def test_a_policy_equal_to_its_reference_is_at_no_distance(estimator: KlEstimator) -> None:
    logprobs = torch.tensor([-0.5, -3.0, -20.0])
    assert kl_estimates(estimator, logprobs, logprobs).tolist() == [0.0] * 3


@estimators
def test_a_reference_that_calls_a_token_impossible_gives_numbers(estimator: KlEstimator) -> None:
    logprobs = torch.tensor([-1.0, -math.inf], requires_grad=True)
    losses = kl_losses(estimator, logprobs, torch.tensor([-1.0, -1.0]), torch.tensor([-math.inf, -1.0]))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()


@given(lengths_lists, st.integers(6, 20))
def test_weights_are_those_of_the_mean_that_they_name(lengths: list[int], longest: int) -> None:
    counts = np.array(lengths)
    shares = {mean: token_weights(mean, counts, longest=longest) * counts for mean in get_args(LossMean)}
    n, tokens, written = len(lengths), sum(lengths), sum(length > 0 for length in lengths)
    assert shares["token"].sum() == pytest.approx(1.0 if tokens else 0.0)
    assert [share / max(length, 1) for share, length in zip(shares["token"], lengths, strict=True) if length] == (
        pytest.approx([1 / tokens] * written if tokens else [])
    )
    assert shares["sequence"].tolist() == pytest.approx([1 / n if length else 0.0 for length in lengths])
    assert shares["constant"].tolist() == pytest.approx([length / (n * longest) for length in lengths])


@pytest.mark.parametrize("mean", get_args(LossMean))
def test_weights_of_nothing_divide_nothing_by_zero(mean: LossMean) -> None:
    with np.errstate(all="raise"):
        assert len(token_weights(mean, np.zeros(0, dtype=np.int64), longest=5)) == 0
        assert np.isfinite(token_weights(mean, np.zeros(3, dtype=np.int64), longest=5)).all()


def made_tokens(seed: int, lengths: list[int], *, mean: LossMean = "token") -> Tokens:
    random = np.random.default_rng(seed)
    count = sum(lengths)

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(random.uniform(low, high, count))

    logprobs, advantages = drawn(-4, -0.1), random.choice([-1.5, 0.0, 0.7], len(lengths))
    weights = token_weights(mean, np.array(lengths), longest=9)
    return Tokens(
        logprobs=logprobs.requires_grad_(),
        entropy=drawn(0, 2).requires_grad_(),
        old_logprobs=logprobs.detach() + drawn(-0.8, 0.8),
        sampler_logprobs=logprobs.detach() + drawn(-1, 1),
        reference_logprobs=logprobs.detach() + drawn(-1, 1),
        advantages=torch.from_numpy(np.repeat(advantages, lengths)),
        weights=torch.from_numpy(np.repeat(weights, lengths)),
        lengths=torch.tensor(lengths),
    )


def slow_loss(tokens: Tokens, told: dict[str, Any], sampling: ImportanceSampling, mean: LossMean) -> Tensor:
    """The loss written down token by token with scalars, each of them a tensor that autograd follows."""
    total, start, lengths = torch.zeros((), dtype=torch.float64), 0, tokens.lengths.tolist()
    bottom, top = 1 - RANGE["clip_low"], 1 + RANGE["clip_high"]
    for length in lengths:
        places = range(start, start + length)
        start += length
        changes = [tokens.logprobs[t] - tokens.old_logprobs[t] for t in places]
        lags = [float(tokens.old_logprobs[t] - tokens.sampler_logprobs[t]) for t in places]
        for t, change, lag in zip(places, changes, lags, strict=True):
            a = float(tokens.advantages[t])
            ratio = torch.exp(sum(changes) / length if told["loss"] == "gspo" else change)
            bounded = max(bottom, min(top, ratio.item()))
            if told["loss"] == "cispo":
                loss = -bounded * a * tokens.logprobs[t]
            else:
                loss = (
                    -ratio * a if ratio.item() * a <= bounded * a else torch.tensor(-bounded * a, dtype=torch.float64)
                )
            weight = math.exp(sum(lags) if sampling == "sequence" else lag) if sampling != "off" else 1.0
            loss = loss * min(weight, 2.0)
            distance = tokens.logprobs[t] - tokens.reference_logprobs[t] if tokens.reference_logprobs is not None else 0
            if told["kl"]["estimator"] == "k1":
                loss = loss + told["kl"]["coefficient"] * distance * torch.exp(change)
            elif told["kl"]["estimator"] == "k2":
                loss = loss + told["kl"]["coefficient"] * distance**2 / 2
            else:
                loss = loss + told["kl"]["coefficient"] * (torch.exp(-distance) - 1 + distance)
            loss = loss - told["entropy_coefficient"] * tokens.entropy[t]
            divisor = {"token": sum(lengths), "sequence": len(lengths) * length, "constant": len(lengths) * 9}[mean]
            total = total + loss / divisor
    return total


@pytest.mark.parametrize("sampling", get_args(ImportanceSampling))
@pytest.mark.parametrize("estimator", get_args(KlEstimator))
@pytest.mark.parametrize("loss", get_args(PolicyLoss))
def test_the_whole_loss_and_its_gradients_equal_the_reference(
    loss: PolicyLoss, estimator: KlEstimator, sampling: ImportanceSampling
) -> None:
    means: tuple[LossMean, ...] = ("sequence",) if loss == "gspo" else get_args(LossMean)
    for seed, mean in enumerate(means):
        kl = {"coefficient": 0.3, "estimator": estimator}
        told = {"loss": loss, "kl": kl, "entropy_coefficient": 0.2, "loss_mean": mean, **RANGE}
        tokens = made_tokens(seed, [3, 1, 5, 2], mean=mean)
        value, _ = objective(tokens, UpdateSettings.model_validate(told), sampling)
        expected = slow_loss(tokens, told, sampling, mean)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        for given_tensor in (tokens.logprobs, tokens.entropy):
            (measured,) = torch.autograd.grad(value, given_tensor, retain_graph=True)
            (wanted,) = torch.autograd.grad(expected, given_tensor, retain_graph=True)
            assert torch.allclose(measured, wanted, rtol=1e-12, atol=1e-12)


def part(tokens: Tokens, first: int, last: int) -> Tokens:
    """Completions `first` to `last`, the last left out."""
    ends = [0, *np.cumsum(tokens.lengths.tolist()).tolist()]
    values = {field.name: getattr(tokens, field.name)[ends[first] : ends[last]] for field in fields(Tokens)}
    return replace(tokens, **{**values, "lengths": tokens.lengths[first:last]})


@pytest.mark.parametrize("loss", get_args(PolicyLoss))
@settings(max_examples=20)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=7), st.data())
def test_any_cut_into_micro_batches_adds_up_to_the_whole(loss: PolicyLoss, lengths: list[int], data: Any) -> None:
    cut = data.draw(st.integers(1, len(lengths) - 1))
    mean: LossMean = "sequence" if loss == "gspo" else data.draw(st.sampled_from(get_args(LossMean)))
    told = UpdateSettings.model_validate(
        {"loss": loss, "loss_mean": mean, "kl": {"coefficient": 0.1}, "entropy_coefficient": 0.1, **RANGE}
    )
    tokens = made_tokens(len(lengths), lengths, mean=mean)
    whole, _ = objective(tokens, told, "sequence")
    parts = [objective(part(tokens, *ends), told, "sequence")[0] for ends in ((0, cut), (cut, len(lengths)))]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12, abs=1e-12)
    (expected,) = torch.autograd.grad(whole, tokens.logprobs)
    (measured,) = torch.autograd.grad(parts[0] + parts[1], tokens.logprobs)
    assert torch.allclose(measured, expected, rtol=1e-12, atol=1e-14)


def test_the_report_tells_tokens_and_completions_by_their_definitions() -> None:
    tokens = made_tokens(5, [4, 6, 3])
    settings_given = UpdateSettings(kl={"coefficient": 0.1, "estimator": "k3"})
    value, report = objective(tokens, settings_given, "token")
    assert not any(getattr(report, f.name).requires_grad for f in fields(TokenReport))
    assert float(report.losses.sum()) == pytest.approx(value.item())
    shares = [float(part_of.float().mean()) for part_of in report.high.split([4, 6, 3])]
    assert report.high_shares.tolist() == pytest.approx(shares)
    assert report.low_shares.tolist() == pytest.approx([float(x.float().mean()) for x in report.low.split([4, 6, 3])])
    change = (tokens.logprobs - tokens.sampler_logprobs).detach()
    assert report.approximate_kl.tolist() == pytest.approx((change.exp() - 1 - change).tolist())
    assert report.difference.tolist() == pytest.approx(change.abs().tolist())
    assert report.kl is not None
    assert (report.kl >= 0).all()


def test_without_tokens_the_whole_loss_is_zero() -> None:
    value, _ = objective(made_tokens(0, [0]), UpdateSettings(), "off")
    assert float(value) == 0.0


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"loss": "gspo", "loss_mean": "sequence"}, "loss gspo needs a clip_low and a clip_high"),
        ({"loss": "gspo", "clip_low": 3e-4, "clip_high": 4e-4}, "loss gspo needs loss_mean sequence, not token"),
        ({"loss": "cispo", "clip_high": 4.0}, "loss cispo needs a clip_low and a clip_high"),
        ({"loss": "cispo", "clip_low": 1, "clip_high": 4, "dual_clip": 3}, "dual_clip goes with loss clip"),
        ({"kl": {"reference": "somewhere"}}, "kl.reference has no effect"),
        ({"old_logprobs": "sampler", "importance_sampling": "token"}, "importance_sampling token compares"),
        ({"dual_clip": 1.0}, "greater than 1"),
        ({"importance_sampling_cap": 0.5}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpdateSettings.model_validate(told)
