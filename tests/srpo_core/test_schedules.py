"""The learning rate's shape, and recomputed layers."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.model import load_model
from srpo_core.policy.recompute import recompute_layers
from srpo_core.policy.schedules import learning_rate_share
from srpo_core.policy.scorer import Scorer
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import UpdateSettings

Batches = Callable[..., RolloutBatch]


def test_the_shares_of_a_short_schedule_are_these() -> None:
    shares = [learning_rate_share(n, warmup_steps=2, decay_steps=4, final_share=0.1) for n in range(8)]
    half = 0.9 * (1 + math.cos(math.pi / 4)) / 2 + 0.1
    assert shares == pytest.approx([0.5, 1.0, 1.0, half, 0.55, 1.1 - half, 0.1, 0.1])
    assert [learning_rate_share(n, warmup_steps=2) for n in range(4)] == [0.5, 1.0, 1.0, 1.0]


@given(st.integers(0, 20), st.integers(1, 50), st.floats(0, 1))
def test_it_rises_to_one_and_falls_to_its_end_without_a_jump(warmup: int, decay: int, final: float) -> None:
    shares = [
        learning_rate_share(n, warmup_steps=warmup, decay_steps=decay, final_share=final)
        for n in range(warmup + decay + 5)
    ]
    assert max(shares) == shares[warmup] == 1.0
    assert shares[:warmup] == sorted(shares[:warmup])
    assert shares[warmup:] == sorted(shares[warmup:], reverse=True)
    assert shares[warmup + decay :] == pytest.approx([final] * 5)
    steepest = max(math.pi / 2 / decay, 1 / max(warmup, 1)) + 1e-9
    assert all(abs(b - a) <= steepest for a, b in pairwise(shares))


def test_the_trainer_follows_the_schedule_by_optimizer_steps(llama: Path, tmp_path: Path, make_batch: Batches) -> None:
    settings = UpdateSettings(
        learning_rate=1e-3, decay_steps=2, final_learning_rate_share=0.0, beta1=0.0, beta2=0.0, minibatches=2
    )
    trainer = Trainer(llama, settings, temperature=1.0)
    batch = make_batch(seed=8, n_groups=8)
    assert trainer.update(batch, seed=0)["optimizer_steps"] == 2
    trainer.save(tmp_path / "two")
    trainer.update(batch, seed=1)  # two more steps at a learning rate of zero
    trainer.save(tmp_path / "four")
    name = "model.safetensors"
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "four" / name).read_bytes()
    assert (tmp_path / "two" / name).read_bytes() != (llama / name).read_bytes()


def kept_bytes(scorer: Scorer, batch: RolloutBatch) -> int:
    """Bytes of activations that a forward pass keeps for its backward pass."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    packed = scorer.pack(batch.prompts, batch.completions)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        logprobs, _ = scorer(packed)
    logprobs.sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
def test_recomputed_layers_give_the_same_gradient_and_keep_less(
    make_policy: Callable[..., Path], make_batch: Batches, architecture: str
) -> None:
    batch, gradients, kept = make_batch(seed=3), [], []
    for recompute in (False, True):
        model = load_model(make_policy(architecture))
        if recompute:
            recompute_layers(model)
        kept.append(kept_bytes(Scorer(model, temperature=1.0, unsampled=[0, 1]), batch))
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None and b is not None)
    assert any(grad is not None and np.abs(grad.numpy()).max() > 0 for grad in gradients[1])
    assert kept[1] < kept[0] / 2
