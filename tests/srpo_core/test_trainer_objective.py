"""The trainer with every objective: against the objective through the model in float64, and what it loads and reads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from srpo_core.policy.advantages import advantages_of
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.losses.mean import token_weights
from srpo_core.policy.losses.objective import Tokens, objective
from srpo_core.policy.losses.sampling import Correction, correction
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import ImportanceSampling, UpdateSettings

Batches = Callable[..., RolloutBatch]
References = Callable[..., torch.Tensor]
LONGEST = 12
STEP: dict[str, Any] = {"beta1": 0.0, "max_grad_norm": 1e9, "learning_rate": 1e-12}
GSPO = {"loss": "gspo", "loss_mean": "sequence", "clip_low": 0.1, "clip_high": 0.2}
CISPO = {"loss": "cispo", "clip_low": 0.5, "clip_high": 0.3}
KL = {"coefficient": 0.5}


@pytest.fixture(scope="session")
def reference(make_policy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another policy than the one that learns: the same kind, with every weight a little off."""
    place = tmp_path_factory.mktemp("reference")
    model = AutoModelForCausalLM.from_pretrained(make_policy("llama"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    model.save_pretrained(place)
    return place


def first_moment(trainer: Trainer, place: Path) -> torch.Tensor:
    trainer.save(place)
    moments = load_file(place / "optimizer.safetensors")
    return torch.cat([moments[key].double().flatten() for key in sorted(moments) if key.endswith("/exp_avg")])


def slow_gradient(
    batch: RolloutBatch,
    told: UpdateSettings,
    sampling: Correction,
    models: tuple[Path, Path],
    token_logprobs: References,
) -> torch.Tensor:
    """The gradient of the objective over all graded rollouts at once, each alone through the model in float64."""
    model, other = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64) for path in models)
    graded = np.flatnonzero(~np.isnan(batch.rewards))
    advantages = advantages_of(told.advantage, batch.rewards, batch.groups, batch.truncated)[graded]
    lengths = batch.completion_lengths[graded]
    logprobs, entropy, distances = [], [], []
    for row in graded:
        places = torch.arange(len(batch.completions[row])), torch.tensor(batch.completions[row], dtype=torch.long)
        table = token_logprobs(model, batch.prompts[row], batch.completions[row], 1.0)
        logprobs.append(table[places])
        possible = table[:, 2:]  # pad and bos are never drawn
        entropy.append(-(possible.exp() * possible).sum(-1))
        with torch.no_grad():
            distances.append(token_logprobs(other, batch.prompts[row], batch.completions[row], 1.0)[places])
    sampler = torch.tensor(np.concatenate([batch.logprobs[row] for row in graded]), dtype=torch.float64)
    flat = torch.cat(logprobs)
    tokens = Tokens(
        logprobs=flat,
        entropy=torch.cat(entropy),
        old_logprobs=flat.detach() if sampling.recomputes else sampler,
        sampler_logprobs=sampler,
        reference_logprobs=torch.cat(distances) if told.kl.coefficient else None,
        advantages=torch.from_numpy(np.repeat(advantages, lengths)),
        weights=torch.from_numpy(np.repeat(token_weights(told.loss_mean, lengths, longest=LONGEST), lengths)),
        lengths=torch.from_numpy(lengths),
    )
    loss, _ = objective(tokens, told, sampling.importance_sampling)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return torch.cat([grad.flatten() for _, grad in sorted(gradients.items()) if grad is not None])


@pytest.mark.parametrize(
    "told",
    [
        {"loss_mean": "sequence", "advantage": "leave_one_out"},
        {"loss_mean": "constant", "advantage": "group_mean"},
        {"advantage": "batch_normalised", "dual_clip": 1.1},
        GSPO,
        CISPO,
        {"kl": KL},
        {"kl": {**KL, "estimator": "k1"}, "old_logprobs": "recomputed"},
        {"entropy_coefficient": 0.3, "advantage": "batch_std"},
        {"importance_sampling": "token"},
        {"importance_sampling": "sequence", "importance_sampling_cap": 1.2, "kl": KL},
    ],
)
def test_every_objective_has_the_gradient_of_its_definition_whatever_the_micro_batches(
    llama: Path, reference: Path, tmp_path: Path, token_logprobs: References, make_batch: Batches, told: dict[str, Any]
) -> None:
    batch = make_batch(seed=21)
    measured = []
    for budget in (10**6, 23):
        settings = UpdateSettings.model_validate({**STEP, **told, "micro_batch_tokens": budget})
        trainer = Trainer(llama, settings, temperature=1.0, longest=LONGEST, reference=reference)
        trainer.update(batch, seed=0)
        measured.append(first_moment(trainer, tmp_path / str(budget)))
    assert (measured[0] - measured[1]).norm() < 1e-6 * measured[0].norm()
    kind = correction(settings, same_code=True)
    expected = slow_gradient(batch, settings, kind, (llama, reference), token_logprobs)
    assert (measured[0] - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("told", "same_code", "recomputes", "kind"),
    [
        ({}, True, False, "off"),
        ({}, False, True, "token"),
        ({"importance_sampling": "off"}, False, True, "off"),
        ({"importance_sampling": "sequence"}, False, True, "sequence"),
        ({"importance_sampling": "token"}, True, True, "token"),
        ({"old_logprobs": "recomputed"}, True, True, "off"),
        ({"old_logprobs": "sampler"}, False, False, "off"),
        ({"old_logprobs": "sampler"}, True, False, "off"),
    ],
)
def test_logprobs_are_recomputed_and_weighed_where_another_program_samples_or_when_asked(
    told: dict[str, Any], same_code: bool, recomputes: bool, kind: ImportanceSampling
) -> None:
    settings = UpdateSettings.model_validate(told)
    assert correction(settings, same_code=same_code) == Correction(recomputes, kind)


def test_a_reference_is_read_only_when_the_divergence_has_a_weight(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    nowhere = tmp_path / "nowhere"
    metrics = Trainer(llama, UpdateSettings(), temperature=1.0, reference=nowhere).update(make_batch(), seed=0)
    assert "kl" not in metrics
    with pytest.raises(Exception, match="nowhere"):
        Trainer(llama, UpdateSettings.model_validate({"kl": KL}), temperature=1.0, reference=nowhere)


def test_the_divergence_is_zero_from_the_policy_itself_and_grows_as_it_learns(llama: Path, make_batch: Batches) -> None:
    settings = UpdateSettings.model_validate({"kl": {"coefficient": 1e-3}, "learning_rate": 1e-2})
    trainer = Trainer(llama, settings, temperature=1.0, reference=llama)
    measured = [trainer.update(make_batch(seed=22, noise=0.0), seed=n)["kl"] for n in range(3)]
    assert measured[0] == pytest.approx(0, abs=1e-9)
    assert 0 < measured[1] < measured[2]


def test_a_heavy_divergence_keeps_the_policy_nearer_to_its_reference(llama: Path, make_batch: Batches) -> None:
    batch, distances = make_batch(seed=22, noise=0.0), []
    for coefficient in (1e-6, 10.0):
        settings = UpdateSettings.model_validate({"kl": {"coefficient": coefficient}, "learning_rate": 3e-3})
        trainer = Trainer(llama, settings, temperature=1.0, reference=llama)
        distances.append([trainer.update(batch, seed=n)["kl"] for n in range(8)][-1])
    assert distances[1] < distances[0] / 2


def test_with_several_optimizer_steps_the_ratio_is_to_the_policy_before_the_first(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batch = make_batch(seed=23)
    before = Trainer(llama, UpdateSettings(), temperature=1.0).score(batch)
    outcomes = []
    for name, told, logprobs in (
        ("recomputed", {"old_logprobs": "recomputed"}, batch.logprobs),
        ("given", {}, before),
    ):
        settings = UpdateSettings.model_validate({"passes": 3, "minibatches": 2, "learning_rate": 3e-3, **told})
        trainer = Trainer(llama, settings, temperature=1.0)
        trainer.update(replace(batch, logprobs=logprobs), seed=0)
        outcomes.append(first_moment(trainer, tmp_path / name))
    assert (outcomes[0] - outcomes[1]).norm() < 1e-5 * outcomes[1].norm()


def test_the_samplers_difference_and_the_weights_are_told_as_they_are(llama: Path, make_batch: Batches) -> None:
    batch = make_batch(seed=24)
    trainer = Trainer(llama, UpdateSettings(), temperature=1.0, same_code=False)
    exact = trainer.score(batch)
    metrics = trainer.update(batch, seed=0)
    advantages = advantages_of("group_std", batch.rewards, batch.groups, batch.truncated)
    lags = np.concatenate([exact[row] - batch.logprobs[row] for row in np.flatnonzero(advantages)])
    weights = np.minimum(np.exp(lags), 2.0)
    measured = {name: value for name, value in metrics.items() if name.startswith("sampling/") and "kl" not in name}
    assert measured == pytest.approx(
        {
            "sampling/sampling_logp_difference/mean": np.abs(lags).mean(),
            "sampling/sampling_logp_difference/max": np.abs(lags).max(),
            "sampling/importance_sampling_ratio/min": weights.min(),
            "sampling/importance_sampling_ratio/mean": weights.mean(),
            "sampling/importance_sampling_ratio/max": weights.max(),
        },
        rel=1e-4,
    )


def test_with_a_divergence_or_an_entropy_bonus_no_graded_rollout_is_skipped(llama: Path, make_batch: Batches) -> None:
    batch = make_batch(seed=25)
    ungraded = batch.completion_lengths[np.isnan(batch.rewards)].sum() / batch.completion_lengths.sum()
    for told in ({"kl": KL}, {"entropy_coefficient": 0.1}):
        trainer = Trainer(llama, UpdateSettings.model_validate(told), temperature=1.0, reference=llama)
        assert trainer.update(batch, seed=0)["frac_tokens_skipped"] == pytest.approx(ungraded)


@pytest.mark.parametrize("told", [{"kl": KL}, {"loss_mean": "constant"}])
def test_a_trainer_that_lacks_what_its_objective_needs_is_refused(llama: Path, told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"longest completion.*reference policy"):
        Trainer(llama, UpdateSettings.model_validate(told), temperature=1.0)
