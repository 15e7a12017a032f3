"""What an update cannot do: numbers that are not finite, memory that runs out."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import NotFiniteError
from srpo_core.policy.memory import is_out_of_memory
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import UpdateSettings

Batches = Callable[..., RolloutBatch]
FILES = ("model.safetensors", "optimizer.safetensors", "trainer.json")
MLP = "model.layers.0.mlp.down_proj.weight"


def scaled(policy: Path, place: Path, name: str, factor: float) -> Path:
    """The policy with one of its tensors multiplied."""
    shutil.copytree(policy, place)
    weights = load_file(place / "model.safetensors")
    weights[name] = weights[name] * factor
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


def contents(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in FILES]


def test_a_weight_that_is_infinite_is_found_by_the_loss_it_gives(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batch = make_batch(seed=1)
    trainer = Trainer(scaled(llama, tmp_path / "p", MLP, float("inf")), UpdateSettings(), temperature=1.0)
    with pytest.raises(NotFiniteError) as refused:
        trainer.update(batch, seed=0)
    assert refused.value.tensors["loss"] > 0
    assert all(not np.isnan(batch.rewards[row]) and not batch.truncated[row] for row in refused.value.rows)


def test_a_gradient_that_overflows_is_told_by_its_tensors_and_nothing_is_applied(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batch = make_batch(seed=1)
    half = scaled(llama, tmp_path / "half", "lm_head.weight", 1e37)
    policy = scaled(half, tmp_path / "whole", "model.norm.weight", 1e-37)  # the logits are as they were
    trainer = Trainer(policy, UpdateSettings(learning_rate=1e-2), temperature=1.0)
    trainer.save(tmp_path / "before")
    with pytest.raises(NotFiniteError) as refused:
        trainer.update(batch, seed=0)
    assert refused.value.tensors
    assert all(name.startswith("gradient") for name in refused.value.tensors)
    assert len(refused.value.rows) >= 8
    trainer.save(tmp_path / "after")
    assert contents(tmp_path / "after") == contents(tmp_path / "before")


@pytest.mark.parametrize(("learning_rate", "minibatches"), [(1e39, 1), (1e30, 2)])
def test_an_absurd_learning_rate_is_found_before_its_weights_are_a_version(
    llama: Path, make_batch: Batches, learning_rate: float, minibatches: int
) -> None:
    settings = UpdateSettings(learning_rate=learning_rate, minibatches=minibatches)
    trainer = Trainer(llama, settings, temperature=1.0)
    with pytest.raises(NotFiniteError):
        trainer.update(make_batch(seed=2, n_groups=8), seed=0)
    assert trainer.progress.version == 0


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_a_recorded_logprob_that_cannot_be_is_told_by_its_rollout(
    llama: Path, make_batch: Batches, value: float
) -> None:
    batch = make_batch(seed=3)
    broken = list(batch.logprobs)
    broken[7] = np.full_like(broken[7], value)
    with pytest.raises(NotFiniteError) as refused:
        Trainer(llama, UpdateSettings(), temperature=1.0).update(replace(batch, logprobs=broken), seed=0)
    assert refused.value.rows == [7]
    assert refused.value.tensors == {"sampler's logprobs": len(broken[7])}


def test_a_version_that_was_left_out_equals_the_last_and_is_counted_until_one_is_made(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batch = make_batch(seed=4)
    nothing = replace(batch, rewards=np.full_like(batch.rewards, 1.0))
    trainer = Trainer(llama, UpdateSettings(learning_rate=1e-3), temperature=1.0)
    trainer.update(batch, seed=0)
    trainer.save(tmp_path / "0")
    counted = []
    for n, step in enumerate((trainer.leave_out, trainer.leave_out, trainer.update, trainer.update), start=1):
        metrics = step(nothing, seed=n) if n == 3 else step(batch, seed=n) if n == 4 else step(batch)
        trainer.save(tmp_path / str(n))
        counted.append((trainer.progress.version, trainer.progress.left_out, metrics["optimizer_steps"]))
        assert (contents(tmp_path / str(n))[:2] == contents(tmp_path / "0")[:2]) == (n < 4)
        resumed = Trainer(tmp_path / str(n), UpdateSettings(learning_rate=1e-3), temperature=1.0)
        assert resumed.progress == trainer.progress
    assert counted == [(2, 1, 0.0), (3, 2, 0.0), (4, 2, 0.0), (5, 0, 1.0)]


def test_a_progress_without_the_count_is_read_as_none_left_out(llama: Path, tmp_path: Path) -> None:
    trainer = Trainer(llama, UpdateSettings(), temperature=1.0)
    trainer.save(tmp_path)
    (tmp_path / "trainer.json").write_text(json.dumps({"version": 3, "optimizer_steps": 2}))
    assert Trainer(tmp_path, UpdateSettings(), temperature=1.0).progress.left_out == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
            True,
        ),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_memory_that_ran_out_is_known_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_budget_once_and_then_names_the_setting(llama: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("short_of_memory.py")
    done = subprocess.run(
        [sys.executable, script, llama, tmp_path], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["half"]["peak"] < told["whole"]["peak"]
    assert (told["whole"]["budget"], told["limited"]["budget"]) == (4096, 2048)
    expected, measured = (np.array(told[name]["gradient"]) for name in ("whole", "limited"))
    assert np.linalg.norm(measured - expected) < 1e-6 * np.linalg.norm(expected)
    assert told["limited"]["counted"] == told["whole"]["counted"]
    message = told["hopeless"]["message"]
    assert "memory ran out with micro-batches of 4096 tokens, and again with 2048" in message
    assert "update.micro_batch_tokens" in message
