"""LoRA learns what peft would, hands over what it learned, and goes on from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.lora import LoraSettings
from srpo_core.settings.update import UpdateSettings

peft = pytest.importorskip("peft", reason="NOT TESTED without the extra `lora`")

Batches = Callable[..., RolloutBatch]
LORA = LoraSettings(rank=3, alpha=6.0)
SETTINGS = UpdateSettings(learning_rate=3e-3, warmup_steps=3, weight_decay=0.01, minibatches=2, lora=LORA)


def trainer_of(checkpoint: Path, base: Path | None = None, settings: UpdateSettings = SETTINGS) -> Trainer:
    return Trainer(checkpoint, settings, temperature=1.0, base=base, adapter_seed=5)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def version_0(llama: Path, tmp_path: Path) -> Path:
    trainer_of(llama).save(place := tmp_path / "version-0")
    return place


@pytest.fixture
def version_2(version_0: Path, tmp_path: Path, make_batch: Batches) -> Path:
    trainer = trainer_of(version_0, version_0)
    for seed in range(2):
        trainer.update(make_batch(seed=seed), seed=seed)
    trainer.save(place := tmp_path / "version-2")
    return place


def test_a_new_adapter_changes_nothing(llama: Path, version_0: Path) -> None:
    before, after = load_file(llama / "model.safetensors"), load_file(version_0 / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_its_gradient_is_that_of_the_whole_model_through_pefts_own_layers(
    llama: Path, version_2: Path, version_0: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batch = make_batch(seed=9)
    still: dict[str, Any] = {"beta1": 0.0, "max_grad_norm": 1e9, "learning_rate": 1e-12}
    settings = UpdateSettings(**still, lora=LORA)
    trainer = Trainer(version_2, settings, temperature=1.0, base=version_0)
    trainer.update(batch, seed=0)
    trainer.save(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "optimizer.safetensors")
    ours = {name.removesuffix("/exp_avg"): value for name, value in stored.items() if name.endswith("/exp_avg")}
    full = Trainer(whole_policy(version_2, llama, tmp_path), UpdateSettings(**still), temperature=1.0)
    full.update(batch, seed=0)
    full.save(tmp_path / "full")
    gradients = load_file(tmp_path / "full" / "optimizer.safetensors")
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(version_0), version_2 / "adapter", is_trainable=True
    )
    # d loss / d (A, B) by peft's own forward and autograd, from d loss / d W of the merged model.
    merged = peft.tuners.lora.LoraModel
    assert isinstance(model.base_model, merged)
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            layer.get_delta_weight("default").backward(gradients[f"{name}.weight/exp_avg"])
    theirs = {name.removeprefix("base_model.model."): p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys()
    assert len(ours) == 28  # two factors beside seven linear layers in two blocks
    for name, value in ours.items():
        grad = theirs[name]
        assert grad is not None
        assert float((value - grad).norm() / grad.norm()) < 1e-4, name


def whole_policy(version: Path, like: Path, tmp_path: Path) -> Path:
    """The merged weights of a version as a policy without an adapter."""
    place = tmp_path / "whole"
    place.mkdir()
    for path in like.iterdir():
        (place / path.name).write_bytes((version / path.name).read_bytes())
    return place


def test_what_it_hands_over_is_what_peft_merges(version_0: Path, version_2: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(version_0)
    model = peft.PeftModel.from_pretrained(base, version_2 / "adapter").merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(version_2).state_dict()
    changed = 0
    for name, value in model.state_dict().items():
        assert torch.allclose(ours[name], value, atol=1e-6), name
        changed += not torch.equal(value, load_file(version_0 / "model.safetensors").get(name, value))
    assert changed == 14


def test_a_training_that_is_resumed_at_every_version_ends_in_the_same_bytes(
    version_0: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batches = [make_batch(seed=seed) for seed in (20, 21, 22)]
    undisturbed = trainer_of(version_0, version_0)
    start = version_0
    before = contents(version_0)
    for seed, batch in enumerate(batches):
        undisturbed.update(batch, seed=seed)
        resumed = trainer_of(start, version_0)
        resumed.update(batch, seed=seed)
        resumed.save(start := tmp_path / f"resumed-{seed}")
    undisturbed.save(tmp_path / "undisturbed")
    assert contents(start) == contents(tmp_path / "undisturbed")
    assert contents(version_0) == before


def test_the_optimizer_holds_the_adapter_alone(version_2: Path) -> None:
    adapter = load_file(version_2 / "adapter" / "adapter_model.safetensors")
    moments = load_file(version_2 / "optimizer.safetensors")
    numbers = sum(value.numel() for name, value in moments.items() if not name.endswith("/step"))
    assert numbers == 2 * sum(value.numel() for value in adapter.values())


def test_the_same_seed_draws_the_same_adapter(llama: Path, version_0: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.rand(3)
    trainer_of(llama).save(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(version_0)
    Trainer(llama, SETTINGS, temperature=1.0, adapter_seed=6).save(tmp_path / "other")
    assert contents(tmp_path / "other") != contents(version_0)


def test_merged_weights_are_not_trained_on(version_2: Path) -> None:
    with pytest.raises(PolicyError, match="from its base only"):
        trainer_of(version_2)


@pytest.mark.parametrize("change", [{"rank": 4}, {"alpha": 7.0}, {"targets": ("q_proj",)}])
def test_an_adapter_of_other_settings_is_refused(version_0: Path, version_2: Path, change: dict[str, Any]) -> None:
    other = SETTINGS.model_copy(update={"lora": LORA.model_copy(update=change)})
    with pytest.raises(PolicyError, match=str(version_2 / "adapter")):
        trainer_of(version_2, version_0, other)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_adapter_is_refused_with_its_place(version_0: Path, version_2: Path, name: str) -> None:
    path = version_2 / "adapter" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PolicyError, match=str(version_2 / "adapter")):
        trainer_of(version_2, version_0)


def test_layers_that_are_not_there_are_named(llama: Path) -> None:
    settings = UpdateSettings(lora=LoraSettings(rank=2, targets=("nope",)))
    with pytest.raises(PolicyError, match="nope"):
        trainer_of(llama, settings=settings)
