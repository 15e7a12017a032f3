"""Models that end by several tokens: every engine and version knows them all, wherever the model names them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm_peers import Peer
from vllm_policies import tiny_model, write_version

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import end_token_ids, load_tokenizer
from srpo_core.policy.trainer import Trainer
from srpo_core.rollout.engine import Completion, PromptGroup, Sampling
from srpo_core.rollout.errors import EngineError
from srpo_core.rollout.rollouts import completion_text
from srpo_core.rollout.served import served_copy
from srpo_core.rollout.transformers import TransformersEngine
from srpo_core.rollout.vllm import VllmEngine
from srpo_core.settings.update import UpdateSettings

PAD, EOS, OTHER = 0, 2, 5
GENERATION = "generation_config.json"
GROUPS = [PromptGroup([6 + place, 7], range(40 * place, 40 * place + 40)) for place in range(3)]


@pytest.fixture
def policy(llama: Path, tmp_path: Path) -> Path:
    """A policy that ends by padding too, as Qwen2.5's instructed models do, and by a further token."""
    copy = shutil.copytree(llama, tmp_path / "policy")
    (copy / GENERATION).write_text(json.dumps({"eos_token_id": [OTHER, EOS, PAD], "pad_token_id": PAD}))
    return copy


def sampled(policy: Path, engine: TransformersEngine | None = None) -> list[list[Completion]]:
    engine = engine or TransformersEngine(batch_rows=64)
    engine.load(policy)
    return engine.generate(GROUPS, Sampling(1.0, 20))


def assert_ends(completions: list[Completion], ends: set[int], longest: int) -> None:
    for completion in completions:
        tokens = completion.token_ids.tolist()
        assert not ends & set(tokens[:-1])
        assert (tokens[-1] in ends) == (completion.finish_reason == "stop")
        assert len(completion.logprobs) == len(tokens)
        assert completion.finish_reason == "stop" or len(tokens) == longest


def test_a_completion_ends_by_any_of_the_ends_and_its_text_is_without_it(policy: Path) -> None:
    completions = [completion for group in sampled(policy) for completion in group]
    assert_ends(completions, {PAD, EOS, OTHER}, 20)
    assert {int(c.token_ids[-1]) for c in completions if c.finish_reason == "stop"} == {PAD, EOS, OTHER}
    tokenizer = load_tokenizer(policy)
    for completion in completions:
        written = completion.token_ids.tolist()
        written = written[:-1] if completion.finish_reason == "stop" else written
        assert completion_text(tokenizer, completion).split() == tokenizer.convert_ids_to_tokens(written)


def test_published_versions_know_every_end_and_give_it_its_log_probability(policy: Path, tmp_path: Path) -> None:
    Trainer(policy, UpdateSettings(), temperature=1.0).save(version := tmp_path / "version")
    assert end_token_ids(version, load_tokenizer(version)) == [PAD, EOS, OTHER]
    groups = sampled(version)
    completions = [completion for group in groups for completion in group]
    batch = RolloutBatch(
        [np.array(group.prompt_token_ids, dtype=np.int32) for group in GROUPS for _ in group.seeds],
        [completion.token_ids for completion in completions],
        [completion.logprobs for completion in completions],
        np.zeros(len(completions)),
        np.repeat(np.arange(len(GROUPS)), 40),
        np.zeros(len(completions), dtype=np.bool_),
    )
    scores = Trainer(version, UpdateSettings(), temperature=1.0).score(batch)
    np.testing.assert_allclose(np.concatenate(scores), np.concatenate(batch.logprobs), atol=1e-4)


def test_an_engine_that_goes_on_to_a_model_with_other_ends_uses_those(llama: Path, policy: Path) -> None:
    engine = TransformersEngine(batch_rows=64)
    sampled(llama, engine)
    again, alone = sampled(policy, engine), sampled(policy)
    for mine, theirs in zip(again, alone, strict=True):
        assert [c.token_ids.tolist() for c in mine] == [c.token_ids.tolist() for c in theirs]


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [9, OTHER]}, {"eos_token_id": 7}, [EOS, OTHER, 9]),
        ({"eos_token_id": OTHER}, {}, [EOS, OTHER]),
        ({"eos_token_id": None}, {"eos_token_id": 7}, [EOS]),
        ({}, {}, [EOS]),
        (None, {"eos_token_id": [EOS, 7]}, [EOS, 7]),
    ],
)
def test_the_ends_are_the_tokenizers_and_those_the_model_generates_with(
    policy: Path, generation: Any, config: dict[str, Any], ends: list[int]
) -> None:
    (policy / "config.json").write_text(json.dumps(json.loads((policy / "config.json").read_text()) | config))
    (policy / GENERATION).unlink()
    if generation is not None:
        (policy / GENERATION).write_text(json.dumps(generation))
    assert end_token_ids(policy, load_tokenizer(policy)) == ends


@pytest.mark.parametrize("text", ["", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [2, null]}'])
def test_ends_that_cannot_be_read_are_told_with_their_file(policy: Path, text: str) -> None:
    (policy / GENERATION).write_text(text)
    with pytest.raises(PolicyError, match=GENERATION):
        end_token_ids(policy, load_tokenizer(policy))


@pytest.fixture
def served(tmp_path: Path) -> Any:
    """A peer and an engine of a policy that ends by 41 of its 320 tokens, padding among them."""
    model = tiny_model(0)
    model.generation_config.eos_token_id = [PAD, EOS, *range(100, 139)]
    version = write_version(tmp_path / "version", model, 0)
    peer = Peer(served_copy(version, tmp_path / "start"))
    with VllmEngine([peer.url], served=tmp_path / "served") as engine:
        engine.load(version)
        yield peer, engine
    peer.kill()


def test_a_vllm_server_is_asked_to_end_by_every_end_and_is_read_so(served: tuple[Peer, VllmEngine]) -> None:
    peer, engine = served
    groups = [PromptGroup([5, 6 + place], [1, 2, 3]) for place in range(4)]
    completions = [one for group in engine.generate(groups, Sampling(1.0, 8)) for one in group]
    assert_ends(completions, {PAD, EOS, *range(100, 139)}, 8)
    assert any(one.token_ids[-1] >= 100 for one in completions if one.finish_reason == "stop")
    asked = peer.bodies[-1]["sampling_params"]
    assert asked["stop_token_ids"] == [PAD, EOS, *range(100, 139)]
    assert set(asked["logit_bias"]) == {"1"}


def test_a_server_that_ends_by_another_token_is_told(
    served: tuple[Peer, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, engine = served
    choice: Callable[..., dict[str, Any]] = peer._choice

    def ends_anywhere(body: dict[str, Any], index: int) -> dict[str, Any]:
        asked = body["sampling_params"]
        return choice({**body, "sampling_params": {**asked, "stop_token_ids": list(range(7, 320))}}, index)

    monkeypatch.setattr(peer, "_choice", ends_anywhere)
    with pytest.raises(EngineError, match="last token"):
        engine.generate([PromptGroup([5, 6], range(9))], Sampling(1.0, 8))
