"""Whatever transformers loads as a causal model is computed the same in every way, or refused with the reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model
from srpo_core.policy.scorer import Scorer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.rollout.agreement import require_agreement
from srpo_core.rollout.transformers import Decoder

SHAPE = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2}
BART_LAYERS = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}


@pytest.fixture
def model_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes a random model with the deviations that transformers begins training with: nearly uniform."""

    def make(architecture: str, **own: Any) -> Path:
        torch.manual_seed(3)
        config = AutoConfig.for_model(architecture, **SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2, **own)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / architecture)
        return tmp_path / architecture

    return make


@pytest.mark.parametrize(
    ("architecture", "own"),
    [
        ("llama", GROUPED),
        ("qwen2", GROUPED),
        ("qwen3", {**GROUPED, "head_dim": 8}),
        ("mistral", {**GROUPED, "sliding_window": None}),
        ("gemma", {"num_key_value_heads": 1, "head_dim": 8}),
        ("gpt2", {}),
        ("gptj", {"rotary_dim": 4}),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
        ("falcon", {}),
        ("mixtral", {**GROUPED, "sliding_window": None}),
    ],
)
def test_causal_decoders_agree(model_of: Callable[..., Path], architecture: str, own: dict[str, Any]) -> None:
    require_agreement(model_of(architecture, **own))


@pytest.mark.parametrize(
    ("architecture", "own", "words"),
    [
        ("bert", {}, r"beginning by itself is off by 0\.\d+ nats"),
        ("roberta", {}, r"beginning by itself is off by 0\.\d+ nats"),
        ("electra", {"embedding_size": 32}, r"beginning by itself is off by 0\.\d+ nats"),
        ("bart", {**BART_LAYERS, "d_model": 32}, "sampling on a cache is off by"),
        ("bloom", {}, "fails"),
        ("cpmant", {"dim_head": 8, "dim_ff": 32}, "fails"),
        ("nemotron", GROUPED, "packed forward pass fails"),
        ("mistral", {**GROUPED, "sliding_window": 8}, "sliding_attention"),
    ],
)
def test_what_we_would_compute_wrongly_is_refused_with_its_type_and_the_reason(
    model_of: Callable[..., Path], architecture: str, own: dict[str, Any], words: str
) -> None:
    with pytest.raises(PolicyError, match=f"models of type {architecture} .*{words}"):
        require_agreement(model_of(architecture, **own))


def test_a_sampler_that_computes_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: rows that split go on with the keys and values of a neighbour."""
    keep_rows = Decoder.keep_rows
    monkeypatch.setattr(Decoder, "keep_rows", lambda self, rows: keep_rows(self, rows.flip(0)))
    with pytest.raises(PolicyError, match="sampling on a cache is off by"):
        require_agreement(base_policy_dir())


def test_a_trainer_that_computes_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: tokens are twice as far from one another in the packed pass as they are."""
    pack = Scorer.pack

    def stretched(self: Scorer, prompts: Any, completions: Any) -> Any:
        packed = pack(self, prompts, completions)
        return replace(packed, positions=2 * packed.positions)

    monkeypatch.setattr(Scorer, "pack", stretched)
    with pytest.raises(PolicyError, match="packed forward pass is off by"):
        require_agreement(base_policy_dir())


def test_weights_that_are_no_numbers_are_told(llama: Path, tmp_path: Path) -> None:
    model = load_model(llama)
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = np.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="off by nan"):
        require_agreement(tmp_path)


def test_the_check_leaves_the_random_numbers_of_the_process_alone(llama: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    require_agreement(llama)
    assert torch.equal(torch.rand(4), expected)
