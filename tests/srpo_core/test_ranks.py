"""An update by two processes is that of one: real processes on gloo, each test a group of its own."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import uuid
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
from srpo_core.policy.errors import NotFiniteError, PolicyError
from srpo_core.policy.ranks.batches import write_batch
from srpo_core.policy.ranks.group import RankGroup, join
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.lora import LoraSettings
from srpo_core.settings.parallel import ParallelSettings
from srpo_core.settings.update import UpdateSettings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
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
    for name, value in one.items():
        if not name.startswith(("timing_s/", "perf/")):
            assert value == pytest.approx(other[name], rel=1e-4, abs=1e-6, nan_ok=True), name


def test_two_processes_make_the_versions_of_one_and_hand_over_both_ways(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batches = [make_batch(seed=30), one_row(make_batch(seed=31)), make_batch(seed=32), make_batch(seed=33)]
    alone = Trainer(llama, SETTINGS, temperature=1.0)
    with group_of(llama, tmp_path) as group:
        assert group.progress == alone.progress
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
    for lost in (1, 2):
        copy = shutil.copytree(tmp_path / "two", tmp_path / f"without-{lost}")
        (copy / "optimizer" / f"shard-{lost:05d}-model-00001-of-00001.safetensors").unlink()
        with pytest.raises(PolicyError, match=r"not whole|lacks a file"):
            Trainer(copy, settings, temperature=1.0, base=base)


def marked(mark: str) -> list[int]:
    """Processes that were started with `mark` in their environment and have not ended."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and mark.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:  # it has ended, or is another's
            continue
    return found


def moment(monkeypatch: pytest.MonkeyPatch, file: Path, **what: Any) -> str:
    """Let something happen to a process of the groups that are started from here; gives their mark."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("SRPO_TEST_MARK", mark)
    monkeypatch.setenv("SRPO_TEST_MOMENT", json.dumps({"file": str(file), **what}))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "rank_moments"), str(ROOT)]))
    return mark


def test_the_death_of_one_in_the_middle_of_a_step_ends_the_group_with_its_reason(
    llama: Path, tmp_path: Path, make_batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = moment(monkeypatch, tmp_path / "died", rank=1, call=2, then="die")
    with group_of(llama, tmp_path) as group:
        assert len(marked(mark)) == 3  # torchrun and the two
        with pytest.raises(PolicyError, match=r"rank 1 was killed by SIGKILL.*srpo resume"):
            group.update(make_batch(seed=4, n_groups=8), seed=0)
        assert marked(mark) == []
        with pytest.raises(PolicyError, match="srpo resume"):
            group.update(make_batch(seed=4), seed=0)


OWNER = """
import sys
from pathlib import Path
from srpo_core.policy.ranks.batches import read_batch
from srpo_core.policy.ranks.group import RankGroup, join
from srpo_core.settings.update import UpdateSettings

checkpoint, batch, place = map(Path, sys.argv[1:4])
settings = UpdateSettings.model_validate_json(sys.argv[4])
options = {"temperature": 1.0, "device": "cpu", "threads": 1, "base": checkpoint}
RankGroup(checkpoint, settings, exchange=place, log=place / "log", **options).update(read_batch(batch), seed=0)
"""


def test_the_death_of_the_owner_in_the_middle_of_a_step_ends_every_process(
    llama: Path, tmp_path: Path, make_batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    mark = moment(monkeypatch, fifo, rank=1, call=2, then="hang")
    write_batch(tmp_path / "batch.npz", make_batch(seed=4, n_groups=8))
    arguments = [llama, tmp_path / "batch.npz", tmp_path, SETTINGS.model_dump_json()]
    owner = subprocess.Popen([sys.executable, "-c", OWNER, *map(str, arguments)])
    assert fifo.read_text() == "here\n"  # blocks until the process is there
    below = [os.pidfd_open(pid) for pid in marked(mark) if pid != owner.pid]
    assert len(below) == 3
    owner.kill()
    owner.wait()
    for each in below:
        assert select.select([each], [], [], 60)[0], "a process outlived its owner"
        os.close(each)


def test_what_a_process_cannot_do_is_told_as_it_told_it(llama: Path, tmp_path: Path, make_batch: Batches) -> None:
    with (
        pytest.raises(PolicyError, match=f"{tmp_path / 'nowhere'} holds no policy"),
        group_of(tmp_path / "nowhere", tmp_path),
    ):
        pass


def test_two_machines_that_meet_at_a_port_make_the_version_of_one(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parallel = ParallelSettings(nodes=2, endpoint=f"127.0.0.1:{port}")
    settings, batch = SETTINGS.model_copy(update={"parallel": parallel}), make_batch(seed=4)
    other = threading.Thread(target=join, args=(parallel,), kwargs={"node": 1, "threads": 1, "log": tmp_path / "log"})
    other.start()
    alone = Trainer(llama, SETTINGS, temperature=1.0)
    with group_of(llama, tmp_path, settings) as group:
        same_metrics(group.update(batch, seed=0), alone.update(batch, seed=0))
        (tmp_path / "two").mkdir()
        group.save(tmp_path / "two")
    other.join(60)
    assert not other.is_alive()  # the end of the first machine's processes ends the others'
    alone.save(tmp_path / "one")
    assert float((weights(tmp_path / "two") - weights(tmp_path / "one")).abs().max()) < 1e-5


def test_an_update_that_is_not_finite_is_told_by_two_as_by_one_and_can_be_left_out(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    settings, batch = SETTINGS.model_copy(update={"learning_rate": 1e39}), make_batch(seed=12)
    with pytest.raises(NotFiniteError) as alone:
        Trainer(llama, settings, temperature=1.0).update(batch, seed=0)
    with group_of(llama, tmp_path, settings) as group, pytest.raises(NotFiniteError) as together:
        group.update(batch, seed=0)
    assert together.value.tensors == alone.value.tensors
    assert together.value.rows == alone.value.rows
    with group_of(llama, tmp_path) as group:
        group.leave_out(batch)
        assert (group.progress.version, group.progress.left_out) == (1, 1)
