"""Properties of checkpoints: a resumed training is the undisturbed one, and damage is told with its place."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.checkpoints import Progress, load_progress, model_checksum
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import UpdateSettings

Batches = Callable[..., RolloutBatch]
Policies = Callable[..., Path]
SETTINGS = UpdateSettings(learning_rate=3e-3, warmup_steps=5, weight_decay=0.01, minibatches=2, passes=2)
MOMENTS, PROGRESS, MODEL = "optimizer.safetensors", "trainer.json", "model.safetensors"


def trainer_of(directory: Path) -> Trainer:
    return Trainer(directory, SETTINGS, temperature=1.0)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def trained(llama: Path, make_batch: Batches, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after one update, which no test may change."""
    trainer = trainer_of(llama)
    trainer.update(make_batch(seed=20), seed=0)
    trainer.save(directory := tmp_path_factory.mktemp("trained"))
    return directory


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


def test_a_training_that_is_resumed_at_every_version_ends_in_the_same_bytes(
    llama: Path, tmp_path: Path, make_batch: Batches
) -> None:
    batches = [make_batch(seed=seed) for seed in (20, 21, 22)]
    undisturbed = trainer_of(llama)
    for seed, batch in enumerate(batches):
        undisturbed.update(batch, seed=seed)
    undisturbed.save(tmp_path / "undisturbed")
    start = llama
    for seed, batch in enumerate(batches):
        trainer = trainer_of(start)
        assert trainer.progress.version == seed
        trainer.update(batch, seed=seed)
        trainer.save(start := tmp_path / f"resumed-{seed}")
    assert contents(start) == contents(tmp_path / "undisturbed")
    assert contents(start)[MODEL] != contents(tmp_path / "resumed-1")[MODEL]


def test_loading_and_saving_changes_no_byte(trained: Path, tmp_path: Path) -> None:
    trainer_of(trained).save(tmp_path)
    assert contents(tmp_path) == contents(trained)


def test_a_bare_model_begins_as_version_0(llama: Path) -> None:
    assert trainer_of(llama).progress == Progress(version=0, optimizer_steps=0)


def test_progress_is_read_without_the_model(copy: Path) -> None:
    (copy / MODEL).unlink()
    assert load_progress(copy) == Progress(version=1, optimizer_steps=4)


def test_saving_and_loading_never_pickle(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    for module in (pickle, torch):
        for name in ("load", "loads", "dump", "dumps", "save", "Pickler", "Unpickler"):
            monkeypatch.setattr(module, name, refuse, raising=False)
    trainer_of(trained).save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    for path in tmp_path.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            load_file(path)


Damage = Callable[[Path], object]


@pytest.mark.parametrize("name", [MOMENTS, PROGRESS, MODEL])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-5]), id="cut"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 100), id="garbage"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="a directory"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(copy: Path, name: str, damage: Damage) -> None:
    damage(copy / name)
    with pytest.raises(PolicyError, match=str(copy)):
        trainer_of(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="missing"),
        pytest.param(lambda path: path.write_text(path.read_text()[:60]), id="cut"),
        pytest.param(lambda path: path.write_text("{}"), id="without its fields"),
        pytest.param(lambda path: path.write_text("[]"), id="a list"),
    ],
)
def test_a_policy_that_is_not_whole_is_refused_with_its_place(copy: Path, name: str, damage: Damage) -> None:
    damage(copy / name)
    with pytest.raises(PolicyError, match=str(copy)):
        trainer_of(copy)


@pytest.mark.parametrize("text", ["null", "[1, 2]", '{"version": 1}', '{"version": 1, "optimizer_steps": 1, "x": 1}'])
def test_progress_with_other_fields_is_refused(copy: Path, text: str) -> None:
    (copy / PROGRESS).write_text(text)
    with pytest.raises(PolicyError, match=PROGRESS):
        trainer_of(copy)


def test_weights_that_lack_a_tensor_are_refused_and_never_made_up(copy: Path) -> None:
    weights = load_file(copy / MODEL)
    lacking = "model.layers.1.self_attn.q_proj.weight"
    del weights[lacking]
    save_file(weights, copy / MODEL, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=f"lack {lacking}"):
        load_model(copy)


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    weights = load_file(copy / MODEL)
    weights["model.layers.1.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, copy / MODEL, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=str(copy)):
        load_model(copy)


def test_moments_of_another_model_are_refused(copy: Path, make_policy: Policies) -> None:
    trainer_of(make_policy("gpt_neox")).save(other := copy.parent / "other")
    moments = load_file(copy / MOMENTS)
    shutil.copy(copy / MOMENTS, other / MOMENTS)
    with pytest.raises(PolicyError, match="which this model does not have"):
        trainer_of(other)
    name = "model.norm.weight/exp_avg"
    save_file({**moments, name: moments[name][:3].clone()}, copy / MOMENTS)
    with pytest.raises(PolicyError, match=r"model\.norm\.weight in another shape"):
        trainer_of(copy)


def test_a_tokenizer_without_an_end_is_refused(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(PolicyError, match="end-of-sequence"):
        load_tokenizer(copy)


def test_the_checksum_is_of_the_weights(copy: Path) -> None:
    assert model_checksum(copy) == hashlib.sha256((copy / MODEL).read_bytes()).hexdigest()
    (copy / MODEL).unlink()
    with pytest.raises(PolicyError, match=str(copy / MODEL)):
        model_checksum(copy)
