"""What proves that a server computes with the weights it was given, and the copies that servers are given."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from vllm_policies import nudge, tiny_model, write_version

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model
from srpo_core.policy.probe import PROBE_FILE, Probe, measure_probe, probe_token_ids, read_probe
from srpo_core.rollout.proof import Answer, objection
from srpo_core.rollout.served import remove_copies, served_copy

SHAPE = (8, 23)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_version(tmp_path / "policies" / "version-1", tiny_model(1), 1)


def answers(move: float, noise: float, followed: float, seed: int) -> tuple[Answer, Answer]:
    """A server's answers to two versions `move` apart (rms), of which it follows the share `followed`."""
    random = np.random.default_rng(seed)

    def draw(scale: float) -> np.ndarray:
        return (random.standard_normal(SHAPE) * scale).astype(np.float32)

    old = draw(3.0) - 10
    change = draw(move)
    return Answer(old + draw(noise), old), Answer(old + followed * change + draw(noise), old + change)


@given(st.floats(1e-5, 1.0), st.floats(1e-6, 0.3), st.integers(0, 2**32))
def test_a_server_that_follows_is_believed_whatever_its_rounding(move: float, noise: float, seed: int) -> None:
    before, after = answers(move, noise, 1.0, seed)
    assert objection(after, before, tolerance=6 * noise + 1e-4) is None


@given(st.floats(1e-3, 1.0), st.floats(1e-6, 0.3), st.sampled_from([0.0, 0.5, 0.8]), st.integers(0, 2**32))
def test_a_server_that_stays_behind_is_not(move: float, share: float, followed: float, seed: int) -> None:
    noise = share * move * (1 - followed) / 10
    before, after = answers(move, noise, followed, seed)
    assert objection(after, before, tolerance=100.0) is not None


def test_answers_to_the_bit_as_before_are_stale_even_below_the_noise() -> None:
    before, after = answers(0.01, 0.1, 1.0, 0)
    assert "the version before" in str(objection(Answer(before.served, after.expected), before, tolerance=1.0))
    assert objection(before, before, tolerance=1.0) is None


@pytest.mark.parametrize("wrong", [0.0011, -0.0011, np.nan, np.inf])
def test_one_log_probability_beyond_the_tolerance_is_enough(wrong: float) -> None:
    expected = np.full(SHAPE, -3.0, dtype=np.float32)
    served = expected.copy()
    served[4, 7] += wrong
    assert "more than 0.001" in str(objection(Answer(served, expected), None, tolerance=0.001))
    assert objection(Answer(expected + np.float32(0.0009), expected), None, tolerance=0.001) is None


def test_the_probe_of_a_version_is_what_its_weights_answer(checkpoint: Path) -> None:
    probe = read_probe(checkpoint)
    again = measure_probe(load_model(checkpoint))
    np.testing.assert_array_equal(probe.token_ids, again.token_ids)
    np.testing.assert_allclose(probe.logprobs, again.logprobs, atol=1e-6)
    assert probe.token_ids.shape == (8, 24)
    assert probe.logprobs.shape == (8, 23)


def test_a_change_of_any_weight_changes_the_probe() -> None:
    model = tiny_model(1)
    before = measure_probe(model)
    for name, parameter in model.named_parameters():
        saved = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.01)
        assert measure_probe(model).digest != before.digest, name
        with torch.no_grad():
            parameter.copy_(saved)
    assert measure_probe(model).digest == before.digest


def test_the_probe_fits_every_vocabulary_and_length() -> None:
    for vocabulary, length in ((2, 24), (52, 8), (151_936, 100_000)):
        ids = probe_token_ids(vocabulary, length)
        assert ids.shape == (8, min(24, length))
        assert ids.min() >= 0
        assert ids.max() < vocabulary
        np.testing.assert_array_equal(ids, probe_token_ids(vocabulary, length))


def test_a_policy_without_a_probe_is_told(checkpoint: Path) -> None:
    (checkpoint / PROBE_FILE).unlink()
    with pytest.raises(PolicyError, match="no server can be proved"):
        read_probe(checkpoint)


def test_probes_of_other_weights_have_other_names() -> None:
    ids = probe_token_ids(320, 24)
    assert Probe(ids, np.zeros(SHAPE, np.float32)).digest != Probe(ids, np.full(SHAPE, 1e-7, np.float32)).digest


@pytest.mark.parametrize("tied", [True, False])
def test_a_served_copy_is_the_same_model_with_a_head_of_its_own(tied: bool, tmp_path: Path) -> None:
    checkpoint = write_version(tmp_path / "version-3", tiny_model(3, tied=tied), 3)
    copy = served_copy(checkpoint, tmp_path / "served")
    model, served = load_model(checkpoint), load_model(copy)
    assert served.config.tie_word_embeddings is False
    tokens = torch.arange(10).unsqueeze(0)
    torch.testing.assert_close(served(tokens).logits, model(tokens).logits, rtol=0, atol=0)
    index = json.loads((copy / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(load_file(checkpoint / "model.safetensors")) | {"lm_head.weight"}
    assert {path.name for path in copy.glob("*.safetensors")} == set(index.values())
    assert os.path.samefile(copy / index["model.norm.weight"], checkpoint / "model.safetensors")


def test_a_copy_holds_files_where_the_policy_is_of_symbolic_links(checkpoint: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in checkpoint.iterdir():
        (linked / path.name).symlink_to(path)
    assert not any(path.is_symlink() for path in served_copy(linked, tmp_path / "served").iterdir())


def test_a_copy_is_made_once_and_anew_when_the_version_is_another(checkpoint: Path, tmp_path: Path) -> None:
    root = tmp_path / "served"
    copy = served_copy(checkpoint, root)
    made = (copy / "config.json").stat().st_ino
    assert (served_copy(checkpoint, root) / "config.json").stat().st_ino == made
    other = tiny_model(1)
    nudge(other, 0.1, seed=0)
    again = write_version(tmp_path / "others" / checkpoint.name, other, 1)
    os.utime(again / "model.safetensors", ns=(0, 0))  # another time, whatever the clock's resolution
    served_copy(again, root)
    torch.testing.assert_close(load_model(copy).state_dict(), load_model(again).state_dict())
    assert [path.name for path in root.iterdir()] == [checkpoint.name]


def test_copies_that_are_not_kept_are_removed_with_what_a_killed_process_left(checkpoint: Path, tmp_path: Path) -> None:
    root = tmp_path / "served"
    copy = served_copy(checkpoint, root)
    shutil.copytree(copy, root / "version-0")
    shutil.copytree(copy, root / ".killed")
    remove_copies(root, keep={copy})
    assert list(root.iterdir()) == [copy]
    assert (checkpoint / "model.safetensors").is_file()


def test_a_damaged_version_makes_no_copy(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(PolicyError, match="no copy for the vLLM servers"):
        served_copy(checkpoint, tmp_path / "served")
    assert not (tmp_path / "served" / checkpoint.name).exists()
