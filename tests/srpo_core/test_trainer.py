"""Properties of the update. Gradients are read from the optimizer's saved first moment, which is the gradient
itself after one step with beta1 = 0."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from srpo_core.policy.advantages import advantages_of
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import NotFiniteError
from srpo_core.policy.losses.clip import clip_losses
from srpo_core.policy.model import load_model
from srpo_core.policy.scorer import Scorer
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import UpdateSettings

GRADIENT: dict[str, Any] = {"beta1": 0.0, "max_grad_norm": 1e9, "learning_rate": 1e-12}
Batches = Callable[..., RolloutBatch]
References = Callable[..., torch.Tensor]
Gradient = Callable[..., torch.Tensor]


@pytest.fixture
def gradient(tmp_path: Path, llama: Path) -> Gradient:
    """The first moment after an update of the llama policy, flat, parameters by name."""
    places = (tmp_path / f"after-{n}" for n in count())

    def of(batch: RolloutBatch, *, seed: int = 0, temperature: float = 1.0, **settings: Any) -> torch.Tensor:
        trainer = Trainer(llama, UpdateSettings(**{**GRADIENT, **settings}), temperature=temperature)
        trainer.update(batch, seed=seed)
        trainer.save(place := next(places))
        moments = load_file(place / "optimizer.safetensors")
        return torch.cat([moments[key].flatten() for key in sorted(moments) if key.endswith("/exp_avg")])

    return of


def by_name(model: torch.nn.Module) -> torch.Tensor:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return torch.cat([grad.flatten() for _, grad in sorted(gradients.items()) if grad is not None])


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def rows_of(batch: RolloutBatch, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> RolloutBatch:
    places = np.flatnonzero(keep).tolist()
    return RolloutBatch(
        [batch.prompts[n] for n in places],
        [batch.completions[n] for n in places],
        [batch.logprobs[n] for n in places],
        batch.rewards[places],
        batch.groups[places],
        batch.truncated[places],
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("scale_by_std", [True, False])
def test_the_gradient_equals_the_formulas_through_the_model_in_float64(
    gradient: Gradient,
    llama: Path,
    token_logprobs: References,
    slow_advantages: Callable[..., list[float]],
    make_batch: Batches,
    temperature: float,
    scale_by_std: bool,
) -> None:
    batch, low, high = make_batch(seed=3), 0.2, 0.28
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)
    advantages = slow_advantages(batch.rewards.tolist(), batch.groups.tolist(), scale_by_std)
    total = sum(len(c) for c, reward in zip(batch.completions, batch.rewards, strict=True) if not np.isnan(reward))
    sides = set()
    for row, advantage in enumerate(advantages):
        if np.isnan(batch.rewards[row]) or batch.truncated[row]:
            continue
        table = token_logprobs(model, batch.prompts[row], batch.completions[row], temperature)
        objective = torch.zeros((), dtype=torch.float64)
        for t, token in enumerate(batch.completions[row]):
            ratio = torch.exp(table[t, int(token)] - float(batch.logprobs[row][t]))
            bounded = min(max(ratio.item(), 1 - low), 1 + high)
            cut = bounded * advantage < ratio.item() * advantage
            sides.add((cut, ratio.item() > 1, advantage > 0))
            objective = objective + (bounded * advantage if cut else ratio * advantage)
        if objective.requires_grad:  # else every token of it is cut
            (-objective / total).backward()
    assert {(True, True, True), (True, False, False), (False, True, False), (False, False, True)} <= sides
    measured = gradient(batch, temperature=temperature, advantage="group_std" if scale_by_std else "group_mean")
    assert relative_difference(measured, by_name(model)) < 1e-5


def test_the_gradient_does_not_depend_on_the_micro_batches(gradient: Gradient, make_batch: Batches) -> None:
    batch = make_batch(seed=4, n_groups=8)
    whole = gradient(batch, micro_batch_tokens=10**6)
    for tokens in (1, 13, 37, 100):
        assert relative_difference(gradient(batch, micro_batch_tokens=tokens), whole) < 1e-6


def test_skipping_rollouts_without_advantage_gives_the_gradient_of_computing_them(
    gradient: Gradient, llama: Path, make_batch: Batches
) -> None:
    everything = make_batch(seed=5)
    batch = rows_of(everything, ~np.isnan(everything.rewards))
    advantages = advantages_of("group_std", batch.rewards, batch.groups)
    advantages[batch.truncated] = 0.0
    assert (advantages == 0).sum() >= 5
    model = load_model(llama)
    scorer = Scorer(model, temperature=1.0, unsampled=[0, 1])
    logprobs, _ = scorer(scorer.pack(batch.prompts, batch.completions))
    per_token = torch.from_numpy(np.repeat(advantages, batch.completion_lengths).astype(np.float32))
    old = torch.from_numpy(np.concatenate(batch.logprobs))
    losses = clip_losses(logprobs, old, per_token, clip_low=0.2, clip_high=0.28).losses
    (losses.sum() / len(old)).backward()
    assert relative_difference(gradient(batch), by_name(model)) < 1e-6


def test_truncated_rollouts_teach_nothing_when_masked(gradient: Gradient, make_batch: Batches) -> None:
    batch = make_batch(seed=6)
    garbled = list(batch.logprobs)
    for row in np.flatnonzero(batch.truncated):
        garbled[row] = garbled[row] - np.float32(0.05)
    other = replace(batch, logprobs=garbled)
    assert batch.truncated.any()
    assert torch.equal(gradient(batch), gradient(other))
    assert not torch.equal(gradient(batch, mask_truncated=False), gradient(other, mask_truncated=False))


def test_a_masked_rollout_still_counts_for_its_siblings_and_in_the_denominator(
    gradient: Gradient, make_batch: Batches
) -> None:
    batch = make_batch(seed=6)
    none_cut = replace(batch, truncated=np.zeros_like(batch.truncated))
    some = np.arange(len(batch.truncated)) % 3 == 0
    sum_of_parts = gradient(replace(batch, truncated=some)) + gradient(replace(batch, truncated=~some))
    assert relative_difference(sum_of_parts, gradient(none_cut)) < 1e-6


def test_ungraded_rollouts_are_as_if_they_had_not_been(gradient: Gradient, make_batch: Batches) -> None:
    batch = make_batch(seed=7)
    assert np.isnan(batch.rewards).any()
    assert torch.equal(gradient(batch), gradient(rows_of(batch, ~np.isnan(batch.rewards))))


@pytest.mark.parametrize("seed", [0, 1])
def test_minibatches_share_the_groups_whole_and_each_has_its_own_denominator(
    gradient: Gradient, make_batch: Batches, seed: int
) -> None:
    batch = make_batch(seed=8, n_groups=8)
    batch = rows_of(batch, batch.groups >= 4)  # four groups with advantages
    measured = gradient(batch, seed=seed, minibatches=2, beta1=0.5)  # g1 / 4 + g2 / 2
    matches = []
    for first in combinations(range(4, 8), 2):
        chosen = np.isin(batch.groups, first)
        expected = gradient(rows_of(batch, chosen)) / 4 + gradient(rows_of(batch, ~chosen)) / 2
        matches.append(relative_difference(measured, expected) < 1e-5)
    assert sum(matches) == 1


def test_minibatches_are_drawn_from_the_seed(gradient: Gradient, make_batch: Batches) -> None:
    batch = make_batch(seed=8, n_groups=8)
    drawn = [gradient(batch, seed=seed, minibatches=2) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(drawn[0], drawn[1])
    assert any(not torch.equal(drawn[0], other) for other in drawn[2:])


def test_every_pass_goes_through_every_minibatch(llama: Path, make_batch: Batches) -> None:
    batch = make_batch(seed=8, n_groups=8)
    batch = rows_of(batch, batch.groups >= 4)
    trainer = Trainer(llama, UpdateSettings(minibatches=2, passes=3), temperature=1.0)
    metrics = trainer.update(batch, seed=0)
    assert metrics["optimizer_steps"] == trainer.progress.optimizer_steps == 6
    assert trainer.progress.version == 1


def test_more_minibatches_than_groups_leave_some_out(llama: Path, make_batch: Batches) -> None:
    batch = make_batch(seed=8)
    batch = rows_of(batch, batch.groups >= 4)
    metrics = Trainer(llama, UpdateSettings(minibatches=5), temperature=1.0).update(batch, seed=0)
    assert metrics["optimizer_steps"] == 2


def test_the_gradient_is_scaled_down_to_its_longest_norm_and_reported_as_it_was(
    gradient: Gradient, llama: Path, make_batch: Batches
) -> None:
    batch = make_batch(seed=9)
    norm = float(gradient(batch).norm())
    assert float(gradient(batch, max_grad_norm=norm / 10).norm()) == pytest.approx(norm / 10, rel=1e-4)
    metrics = Trainer(llama, UpdateSettings(max_grad_norm=norm / 10), temperature=1.0).update(batch, seed=0)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_learning_rate_rises_linearly_and_stays(llama: Path, tmp_path: Path, make_batch: Batches) -> None:
    batch = make_batch(seed=10)
    settings = UpdateSettings(learning_rate=1e-3, warmup_steps=3, beta1=0.0, beta2=0.0)
    trainer = Trainer(llama, settings, temperature=1.0)  # with both decays 0, a step is the learning rate's sign
    before, steps = load_file(llama / "model.safetensors"), []
    for n in range(5):
        trainer.update(batch, seed=n)
        trainer.save(tmp_path / str(n))
        after = load_file(tmp_path / str(n) / "model.safetensors")
        steps.append(float(np.median([float((after[name] - before[name]).abs().median()) for name in before])))
        before = after
    assert steps == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3], rel=0.01)


def test_an_update_makes_the_better_rollouts_more_likely(llama: Path, tmp_path: Path, make_batch: Batches) -> None:
    batch = make_batch(seed=11, noise=0.0)
    trainer = Trainer(llama, UpdateSettings(learning_rate=1e-3), temperature=1.0)
    trainer.update(batch, seed=0)
    trainer.save(tmp_path)
    advantages = advantages_of("group_std", batch.rewards, batch.groups)
    advantages[batch.truncated] = 0.0
    gains = []
    for policy in (llama, tmp_path):
        scorer = Scorer(load_model(policy), temperature=1.0, unsampled=[0, 1])
        logprobs, _ = scorer(scorer.pack(batch.prompts, batch.completions))
        weighted = logprobs.detach() * torch.from_numpy(np.repeat(advantages, batch.completion_lengths))
        gains.append(float(weighted.sum()))
    assert gains[1] > gains[0]


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_and_the_policy_stays(
    llama: Path, tmp_path: Path, make_batch: Batches, value: float
) -> None:
    batch = make_batch(seed=12)
    trainer = Trainer(llama, UpdateSettings(learning_rate=1e-3), temperature=1.0)
    trainer.update(batch, seed=0)
    trainer.save(tmp_path / "before")
    worst = int(np.flatnonzero(batch.groups == 4)[1])  # with -inf its ratio is infinite, and its advantage negative
    broken = list(batch.logprobs)
    broken[worst] = np.full_like(broken[worst], value)
    with pytest.raises(NotFiniteError, match="not finite: sampler's logprobs, with 1 rollouts"):
        trainer.update(replace(batch, logprobs=broken), seed=1)
    trainer.save(tmp_path / "after")
    for name in ("model.safetensors", "optimizer.safetensors", "trainer.json"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()


@pytest.mark.parametrize("rewards", ["equal", "ungraded"])
def test_an_update_without_any_advantage_makes_a_version_with_the_same_weights(
    llama: Path, tmp_path: Path, make_batch: Batches, rewards: str
) -> None:
    batch = make_batch(seed=13)
    nothing = replace(batch, rewards=np.full_like(batch.rewards, 1.1 if rewards == "equal" else np.nan))
    trainer = Trainer(llama, UpdateSettings(learning_rate=1e-2, weight_decay=0.1), temperature=1.0)
    trainer.update(batch, seed=0)
    trainer.save(tmp_path / "one")
    metrics = trainer.update(nothing, seed=1)
    trainer.save(tmp_path / "two")
    assert (metrics["optimizer_steps"], metrics["grad_norm"], metrics["frac_tokens_skipped"]) == (0.0, 0.0, 1.0)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "two" / "trainer.json").read_text()) == {
        "version": 2,
        "optimizer_steps": 1,
        "left_out": 0,
    }


def test_an_update_without_any_rollout_makes_a_version_with_the_same_weights(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batch = make_batch()
    trainer = Trainer(llama, UpdateSettings(learning_rate=1e-2, minibatches=2), temperature=1.0)
    trainer.update(batch, seed=0)
    trainer.save(tmp_path / "one")
    with np.errstate(all="raise"):
        metrics = trainer.update(rows_of(batch, np.zeros(len(batch.rewards), dtype=np.bool_)), seed=1)
    trainer.save(tmp_path / "two")
    assert (metrics["optimizer_steps"], metrics["num_tokens"], metrics["loss"]) == (0.0, 0.0, 0.0)
    assert np.isnan(metrics["reward"])
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()
    assert json.loads((tmp_path / "two" / "trainer.json").read_text()) == {
        "version": 2,
        "optimizer_steps": 2,
        "left_out": 0,
    }


def token_sums(batch: RolloutBatch, advantages: Any, table_of: Callable[[int], Any]) -> SimpleNamespace:
    """What the metrics are made of, token by token; `table_of` gives a rollout's log-probabilities."""
    low, high, entropy, divergence, trained, differences, loss = 0, 0, 0.0, 0.0, 0, [], 0.0
    shares = []
    with torch.no_grad():
        for row in np.flatnonzero(advantages).tolist():
            table = table_of(row)
            before = low, high
            for t, token in enumerate(batch.completions[row]):
                change = float(table[t, int(token)]) - float(batch.logprobs[row][t])
                ratio, a = float(np.exp(change)), advantages[row]
                low += ratio < 0.8 and a < 0
                high += ratio > 1.28 and a > 0
                loss -= min(ratio * a, min(max(ratio, 0.8), 1.28) * a)
                divergence += ratio - 1 - change
                differences.append(abs(change))
                entropy -= sum(float(p.exp() * p) for p in table[t] if p > -torch.inf)
                trained += 1
            count = len(batch.completions[row])
            shares.append(((low - before[0]) / count, (high - before[1]) / count))
    return SimpleNamespace(
        low=low, high=high, entropy=entropy, divergence=divergence, trained=trained, differences=differences, loss=loss,
        shares=shares,
    )  # fmt: skip


def test_metrics_equal_their_definitions(
    llama: Path, double_llama: torch.nn.Module, token_logprobs: References, make_batch: Batches
) -> None:
    batch = make_batch(seed=14)
    metrics = Trainer(llama, UpdateSettings(mask_truncated=False), temperature=1.0).update(batch, seed=0)
    graded = batch.rewards[~np.isnan(batch.rewards)]
    advantages = advantages_of("group_std", batch.rewards, batch.groups)
    sums = token_sums(
        batch, advantages, lambda row: token_logprobs(double_llama, batch.prompts[row], batch.completions[row], 1.0)
    )
    graded_tokens = batch.completion_lengths[~np.isnan(batch.rewards)].sum()
    lengths = batch.completion_lengths
    tokens, ended = lengths.sum(), lengths[~batch.truncated]
    assert metrics == pytest.approx(
        {
            "loss": sums.loss / graded_tokens,
            "reward": graded.mean(),
            "reward_std": graded.std(),
            "frac_reward_zero_std": 2 / 6,  # group 0, and group 3 with its one graded rollout
            "frac_ungraded": 4 / 24,
            "frac_tokens_skipped": 1 - sums.trained / tokens,
            "num_tokens": tokens,
            "completions/mean_length": tokens / 24,
            "completions/min_length": lengths.min(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": 1 / 24,
            "completions/mean_terminated_length": ended.mean(),
            "completions/min_terminated_length": ended.min(),
            "completions/max_terminated_length": ended.max(),
            "entropy": sums.entropy / sums.trained,
            "clip_ratio/low_mean": sums.low / sums.trained,
            "clip_ratio/low_min": min(share for share, _ in sums.shares),
            "clip_ratio/high_mean": sums.high / sums.trained,
            "clip_ratio/high_max": max(share for _, share in sums.shares),
            "clip_ratio/region_mean": (sums.low + sums.high) / sums.trained,
            "sampling/approximate_kl": sums.divergence / sums.trained,
            "sampling/sampling_logp_difference/mean": np.mean(sums.differences),
            "sampling/sampling_logp_difference/max": max(sums.differences),
            "grad_norm": metrics["grad_norm"],
            "optimizer_steps": 1,
        },
        rel=1e-3,
    )


def test_columns_of_different_lengths_are_refused(make_batch: Batches) -> None:
    batch = make_batch()
    with pytest.raises(ValueError, match=r"one entry per rollout.*\[23, 24\]"):
        replace(batch, groups=batch.groups[:-1])


def test_bfloat16_products_give_a_gradient_near_the_float32_one_from_float32_weights(
    gradient: Gradient, make_batch: Batches
) -> None:
    batch = make_batch(seed=15, noise=0.0)
    exact, rounded = gradient(batch), gradient(batch, precision="bfloat16")
    assert rounded.dtype == torch.float32
    assert 1e-4 < relative_difference(rounded, exact) < 0.1


def test_what_is_skipped_would_have_cost_what_it_costs_when_it_is_not(llama: Path, make_batch: Batches) -> None:
    batch = make_batch(seed=16)
    skips = Trainer(llama, UpdateSettings(), temperature=1.0)
    skips.update(batch, seed=0)
    computes = Trainer(llama, UpdateSettings(entropy_coefficient=1e-3), temperature=1.0)
    computes.update(batch, seed=0)
    assert skips.skipped_operations > 0 == computes.skipped_operations
    # Apart, groups with the same first token compute it once each: sums differ by less than that.
    assert skips.operations + skips.skipped_operations == pytest.approx(computes.operations, rel=0.1)
