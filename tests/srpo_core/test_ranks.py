"""An update by two processes is that of one: real processes on gloo, each test a group of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.ranks.group import RankGroup
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.lora import LoraSettings
from srpo_core.settings.parallel import ParallelSettings
from srpo_core.settings.update import UpdateSettings

pytestmark = pytest.mark.slow
Batches = Callable[..., RolloutBatch]
SETTINGS = UpdateSettings(
    learning_rate=1e-3, weight_decay=0.01, micro_batch_tokens=40, parallel=ParallelSettings(processes=2)
)


@contextmanager
def group_of(
    checkpoint: Path, tmp_path: Path, settings: UpdateSettings = SETTINGS, **options: Any
) -> Iterator[RankGroup]:
    exchange = tmp_path / "exchange"
    exchange.mkdir(exist_ok=True)
    made = {"temperature": 1.0, "device": "cpu", "threads": 1, "base": checkpoint} | options
    with RankGroup(checkpoint, settings, exchange=exchange, log=tmp_path / "ranks.log", **made) as group:
        yield group


def weights(directory: Path) -> torch.Tensor:
    stored = load_file(directory / "model.safetensors")
    return torch.cat([stored[name].flatten() for name in sorted(stored)])


def moments(directory: Path, tmp_path: Path) -> torch.Tensor:
    """All second moments of a checkpoint, also one of shares, as a process alone writes what it has read."""
    Trainer(directory, SETTINGS, temperature=1.0).save(place := tmp_path / f"{directory.name}-read")
    stored = load_file(place / "optimizer.safetensors")
    return torch.cat([stored[name].flatten() for name in sorted(stored) if name.endswith("/exp_avg_sq")])


def one_row(batch: RolloutBatch) -> RolloutBatch:
    """A batch in which a single rollout has an advantage: one process has nothing to compute."""
    truncated = np.ones_like(batch.truncated)
    truncated[np.flatnonzero(batch.groups == 4)[0]] = False
    return replace(batch, truncated=truncated)


def same_metrics(one: dict[str, float], other: dict[str, float]) -> None:
    assert set(one) == set(other)
    for name in one:
        if not name.startswith(("timing_s/", "perf/")):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6, nan_ok=True), name


def test_two_processes_make_the_versions_of_one_and_hand_over_both_ways(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batches = [make_batch(seed=30), one_row(make_batch(seed=31)), make_batch(seed=32), make_batch(seed=33)]
    alone = Trainer(llama, SETTINGS, temperature=1.0)
    with group_of(llama, tmp_path) as group:
        for seed, batch in enumerate(batches[:3]):
            same_metrics(group.update(batch, seed=seed), alone.update(batch, seed=seed))
        assert group.progress == alone.progress
        (tmp_path / "two").mkdir()
        group.save(tmp_path / "two")
    alone.save(tmp_path / "one")
    assert float((weights(tmp_path / "two") - weights(llama)).abs().max()) > 1e-3
    assert float((weights(tmp_path / "two") - weights(tmp_path / "one")).abs().max()) < 1e-5
    assert torch.allclose(
        moments(tmp_path / "two", tmp_path), moments(tmp_path / "one", tmp_path), rtol=1e-3, atol=1e-9
    )
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names - {"optimizer.safetensors"} | {"optimizer"}

    from_two = Trainer(tmp_path / "two", SETTINGS, temperature=1.0)
    from_two.update(batches[3], seed=3)
    from_two.save(tmp_path / "one-of-two")
    with group_of(tmp_path / "one", tmp_path) as group:
        group.update(batches[3], seed=3)
        (tmp_path / "two-of-one").mkdir()
        group.save(tmp_path / "two-of-one")
    alone.update(batches[3], seed=3)
    alone.save(tmp_path / "end")
    for place in ("one-of-two", "two-of-one"):
        assert float((weights(tmp_path / place) - weights(tmp_path / "end")).abs().max()) < 1e-5


def test_an_adapter_is_trained_by_two_as_by_one_and_handed_over(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    settings = SETTINGS.model_copy(update={"lora": LoraSettings(rank=3), "gradient_checkpointing": True})
    Trainer(llama, settings, temperature=1.0, adapter_seed=1).save(base := tmp_path / "base")
    alone = Trainer(base, settings, temperature=1.0, base=base)
    with group_of(base, tmp_path, settings) as group:
        for seed in range(3):
            same_metrics(group.update(make_batch(seed=seed), seed=seed), alone.update(make_batch(seed=seed), seed=seed))
        (tmp_path / "two").mkdir()
        group.save(tmp_path / "two")
    alone.save(tmp_path / "one")
    assert float((weights(tmp_path / "two") - weights(base)).abs().max()) > 1e-4
    assert float((weights(tmp_path / "two") - weights(tmp_path / "one")).abs().max()) < 1e-5
    (tmp_path / "two" / "optimizer" / "shard-00002-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(PolicyError, match="not whole"):
        Trainer(tmp_path / "two", settings, temperature=1.0, base=base)
