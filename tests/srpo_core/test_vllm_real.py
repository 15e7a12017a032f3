"""The engine against vLLM itself: what it samples, what it is given, and what the proof catches."""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm_policies import byte_pair_tokenizer, nudge, tiny_model, write_version
from vllm_processes import RealServer, vllm_python

from srpo_core.policy.model import load_model
from srpo_core.rollout import vllm
from srpo_core.rollout.engine import Completion, PromptGroup, Sampling
from srpo_core.rollout.errors import StaleWeightsError
from srpo_core.rollout.served import served_copy
from srpo_core.rollout.vllm import VllmEngine

pytestmark = pytest.mark.slow

GROUPS = [PromptGroup([5, 6, 7 + place], [10 * place + sample for sample in range(8)]) for place in range(8)]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions of one tied policy, each a small update of the one before."""
    vllm_python()
    root = tmp_path_factory.mktemp("policy")
    model = tiny_model(0)
    made = []
    for version in range(3):
        made.append(write_version(root / f"version-{version}", model, version))
        nudge(model, 0.003, seed=version)
    return made


@pytest.fixture(scope="module")
def untied(versions: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server that was started from a served copy, as every server should be."""
    root = tmp_path_factory.mktemp("untied")
    with serving(RealServer(served_copy(versions[0], root), root / "log")) as server:
        yield server


@pytest.fixture(scope="module")
def tied(versions: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server that was started from the tied model itself."""
    root = tmp_path_factory.mktemp("tied")
    with serving(RealServer(bare_model(versions[0], root), root / "log")) as server:
        yield server


@contextmanager
def serving(server: RealServer) -> Iterator[RealServer]:
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def bare_model(checkpoint: Path, root: Path) -> Path:
    """What transformers wrote of a version and no more: a tied model stays tied."""
    copy = root / checkpoint.name
    copy.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.name not in ("optimizer.safetensors", "probe.safetensors"):
            shutil.copy(path, copy)
    return copy


@torch.no_grad()
def largest_difference(
    checkpoint: Path, groups: Sequence[PromptGroup], completions: list[list[Completion]], temperature: float
) -> float:
    """How far the completions' log-probabilities are from those of transformers, in nats."""
    model = load_model(checkpoint)
    worst = 0.0
    for group, drawn in zip(groups, completions, strict=True):
        for one in drawn:
            ids = torch.tensor([[*group.prompt_token_ids, *one.token_ids.tolist()]])
            logits = model(input_ids=ids).logits[0, len(group.prompt_token_ids) - 1 : -1] / temperature
            logits[:, [0, 1]] = -torch.inf
            expected = logits.log_softmax(-1)[torch.arange(len(one.token_ids)), one.token_ids.astype(np.int64)]
            worst = max(worst, float(np.abs(expected.numpy() - one.logprobs).max()))
    return worst


def test_log_probabilities_are_those_of_transformers_after_every_hand_over(
    versions: list[Path], untied: RealServer, tmp_path: Path
) -> None:
    with VllmEngine([untied.url], served=tmp_path) as engine:
        for checkpoint in [*versions, versions[0]]:
            engine.load(checkpoint)
            assert engine.probe_difference < 1e-4
            for temperature in (0.6, 1.0, 2.0):
                drawn = engine.generate(GROUPS, Sampling(temperature, 24))
                assert largest_difference(checkpoint, GROUPS, drawn, temperature) < 1e-4
                tokens = np.concatenate([one.token_ids for group in drawn for one in group])
                assert not np.isin(tokens, [0, 1]).any()
        ends = [(one.finish_reason, one.token_ids.tolist()) for group in drawn for one in group]
        assert {reason for reason, _ in ends} == {"stop", "length"}
        for reason, ids in ends:
            assert (ids[-1] == 2) == (reason == "stop")
            assert 2 not in ids[:-1]
            assert reason == "stop" or len(ids) == 24


def test_samples_of_a_prompt_follow_their_seeds(versions: list[Path], untied: RealServer, tmp_path: Path) -> None:
    with VllmEngine([untied.url], served=tmp_path) as engine:
        engine.load(versions[0])
        sampling = Sampling(1.0, 24)
        first, again = (engine.generate(GROUPS[:1], sampling)[0] for _ in range(2))
        others = engine.generate([PromptGroup(GROUPS[0].prompt_token_ids, range(100, 108))], sampling)[0]
    assert [one.token_ids.tolist() for one in first] == [one.token_ids.tolist() for one in again]
    assert [one.token_ids.tolist() for one in first] != [one.token_ids.tolist() for one in others]
    assert len({tuple(one.token_ids.tolist()) for one in first}) == len(first)


def test_token_ids_come_back_where_their_text_would_give_others(
    versions: list[Path], untied: RealServer, tmp_path: Path
) -> None:
    tokenizer = byte_pair_tokenizer()
    prompt = tokenizer("the theory of these")["input_ids"]
    groups = [PromptGroup(prompt, range(32))]
    with VllmEngine([untied.url], served=tmp_path) as engine:
        engine.load(versions[0])
        drawn = engine.generate(groups, Sampling(2.0, 32))
    ids = [one.token_ids.tolist() for one in drawn[0]]
    retokenised = [tokenizer(tokenizer.decode(one))["input_ids"] for one in ids]
    assert sum(one != other for one, other in zip(ids, retokenised, strict=True)) > len(ids) // 2
    # The log-probabilities are those of the very tokens that came back, so these were the ones drawn.
    assert largest_difference(versions[0], groups, drawn, 2.0) < 1e-4


def test_an_older_version_in_the_place_of_the_new_is_caught(
    versions: list[Path], untied: RealServer, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong" / "version-2"
    shutil.copytree(versions[2], wrong)
    shutil.copy(versions[1] / "model.safetensors", wrong)
    with VllmEngine([untied.url], served=tmp_path / "served") as engine:
        engine.load(versions[1])
        with pytest.raises(StaleWeightsError, match="version-2"):
            engine.load(wrong)
        engine.load(versions[2])
    with VllmEngine([untied.url], served=tmp_path / "coarse", tolerance=100.0) as coarse:
        coarse.load(versions[1])
        with pytest.raises(StaleWeightsError, match="the version before"):
            coarse.load(wrong)


def test_a_tied_head_that_stays_behind_is_caught(
    versions: list[Path], tied: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "served_copy", bare_model)
    with VllmEngine([tied.url], served=tmp_path / "served") as engine:
        engine.load(versions[0])
        with pytest.raises(StaleWeightsError, match="version-1"):
            engine.load(versions[1])
    with VllmEngine([tied.url], served=tmp_path / "coarse", tolerance=100.0) as coarse:
        coarse.load(versions[0])
        with pytest.raises(StaleWeightsError, match="missed"):
            coarse.load(versions[2])


def test_the_cpu_server_takes_sleep_for_an_answer(versions: list[Path], untied: RealServer, tmp_path: Path) -> None:
    with VllmEngine([untied.url], served=tmp_path) as engine:
        engine.load(versions[0])
        before = engine.generate(GROUPS[:1], Sampling(1.0, 8))
        engine.sleep()
        engine.wake_up()
        after = engine.generate(GROUPS[:1], Sampling(1.0, 8))
    assert [one.token_ids.tolist() for one in before[0]] == [one.token_ids.tolist() for one in after[0]]


def test_a_killed_servers_requests_are_answered_by_the_other(  # the last: it takes a server away
    versions: list[Path], untied: RealServer, tied: RealServer, tmp_path: Path
) -> None:
    groups = [PromptGroup([5, 6, 7 + place % 50, place % 7 + 3], range(place, place + 8)) for place in range(48)]
    with VllmEngine([untied.url, tied.url], served=tmp_path, requests_per_server=8) as engine:
        engine.load(versions[0])
        doomed = engine._pool._servers[1]

        def kill_when_busy() -> None:
            while doomed.outstanding < 4:
                time.sleep(0.001)
            tied.kill()

        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        drawn = engine.generate(groups, Sampling(1.0, 64))
        killer.join()
        assert not doomed.ready
        assert [len(group) for group in drawn] == [8] * 48
        assert largest_difference(versions[0], groups, drawn, 1.0) < 1e-4
