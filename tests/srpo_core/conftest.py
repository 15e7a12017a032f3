"""Tiny random policies, batches made by hand, and slow references written from the formulas."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.packing import pack
from srpo_core.policy.scorer import Scorer

torch.set_num_threads(1)
# A slow machine is no defect of what is tested.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

PAD, BOS, EOS = 0, 1, 2
Policies = Callable[..., Path]
Batches = Callable[..., RolloutBatch]
References = Callable[..., torch.Tensor]


def _config(architecture: str, vocab_size: int) -> PretrainedConfig:
    shared: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.3,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    if architecture == "gpt_neox":
        return GPTNeoXConfig(**shared)
    if architecture == "gptj":  # its attention is written out in PyTorch, the others' is one fused operation
        return GPTJConfig(**shared, rotary_dim=4)
    if architecture == "qwen2":
        return Qwen2Config(**shared, num_key_value_heads=1)
    return LlamaConfig(**shared, num_key_value_heads=1)


@pytest.fixture(scope="session")
def make_policy(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    """A directory with a random policy; the same arguments give the same directory, which no test may change."""
    made: dict[tuple[str, int], Path] = {}

    def make(architecture: str = "llama", vocab_size: int = 24) -> Path:
        if (architecture, vocab_size) not in made:
            directory = tmp_path_factory.mktemp(architecture)
            torch.manual_seed(7)
            AutoModelForCausalLM.from_config(_config(architecture, vocab_size)).save_pretrained(directory)
            special = ["<pad>", "<bos>", "<eos>", "<unk>"]
            words = {word: n for n, word in enumerate([*special, *(f"w{n}" for n in range(4, vocab_size))])}
            PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
                pad_token="<pad>",
                bos_token="<bos>",
                eos_token="<eos>",
                unk_token="<unk>",
            ).save_pretrained(directory)
            made[architecture, vocab_size] = directory
        return made[architecture, vocab_size]

    return make


@pytest.fixture(scope="session")
def llama(make_policy: Policies) -> Path:
    return make_policy("llama")


@pytest.fixture(scope="session")
def token_logprobs() -> References:
    """log pi(token | what stands before it) of each completion token, float64, one forward pass for one rollout.

    Written from the definition: logits over the temperature, softmax over all tokens but pad and bos. Gives
    (T, V): the whole distribution at each completion position.
    """

    def reference(
        model: torch.nn.Module, prompt: Sequence[int], completion: Sequence[int], temperature: float
    ) -> torch.Tensor:
        ids = [int(token) for token in [*prompt, *completion]]
        logits = model(torch.tensor([ids])).logits[0].double()
        rows = []
        for place in range(len(prompt), len(ids)):
            tempered = logits[place - 1] / temperature
            allowed = torch.tensor([token not in (PAD, BOS) for token in range(len(tempered))])
            rows.append(tempered.masked_fill(~allowed, -math.inf) - torch.logsumexp(tempered[allowed], 0))
        return torch.stack(rows)

    return reference


@pytest.fixture(scope="session")
def statistics_of() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Log-probabilities and entropies of all completion tokens, as the trainer computes them; pad and bos unsampled."""

    def statistics(
        model: Any, prompts: Sequence[Any], completions: Sequence[Any], temperature: float = 1.0, padding: float = 0.5
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scorer = Scorer(model, temperature=temperature, unsampled=[PAD, BOS])
        logprobs, entropy = scorer(pack(prompts, completions, padding=padding))
        return logprobs, entropy

    return statistics


@pytest.fixture(scope="session")
def double_llama(llama: Path) -> torch.nn.Module:
    """The llama policy's weights in float64."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)
    return model


@pytest.fixture(scope="session")
def slow_advantages() -> Callable[..., list[float]]:
    """(r - mean) / std over each group's graded rollouts, with the population's std, in Python loops."""

    def reference(rewards: Sequence[float], groups: Sequence[int], scale_by_std: bool) -> list[float]:
        advantages = []
        for reward, group in zip(rewards, groups, strict=True):
            siblings = [r for r, g in zip(rewards, groups, strict=True) if g == group and not math.isnan(r)]
            if math.isnan(reward) or max(siblings) - min(siblings) <= 1e-6:
                advantages.append(0.0)
                continue
            mean = math.fsum(siblings) / len(siblings)
            std = math.sqrt(math.fsum((r - mean) ** 2 for r in siblings) / len(siblings))
            advantages.append((reward - mean) / (std if scale_by_std else 1.0))
        return advantages

    return reference


@pytest.fixture(scope="session")
def make_batch(double_llama: torch.nn.Module, token_logprobs: References) -> Batches:
    """Rollouts of the llama policy with ratios on both sides of both clip bounds, groups of every kind.

    Group 0 has equal rewards, group 1 an ungraded rollout, group 2 a truncated one, group 3 one graded rollout
    alone; from group 4 on, rewards differ. `noise` is the spread of log pi_old around log pi.
    """

    def make(seed: int = 0, n_groups: int = 6, group_size: int = 4, noise: float = 0.4) -> RolloutBatch:
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(n_groups), group_size)
        group_prompts = [random.integers(3, 24, random.integers(1, 7)).astype(np.int32) for _ in range(n_groups)]
        completions = [random.integers(2, 24, random.integers(1, 12)).astype(np.int32) for _ in groups]
        rewards = random.choice([0.0, 0.1, 1.0, 1.1], len(groups))
        rewards[::group_size], rewards[1::group_size] = 1.1, 0.0
        truncated = np.zeros(len(groups), dtype=np.bool_)
        rewards[groups == 0] = 0.1
        rewards[np.flatnonzero(groups == 1)[2:3]] = np.nan
        truncated[np.flatnonzero(groups == 2)[:1]] = True
        rewards[np.flatnonzero(groups == 3)[1:]] = np.nan
        old: list[npt.NDArray[np.float32]] = []
        with torch.no_grad():
            for group, completion in zip(groups, completions, strict=True):
                table = token_logprobs(double_llama, group_prompts[group], completion, 1.0).numpy()
                exact = table[np.arange(len(completion)), completion]
                old.append((exact + noise * random.standard_normal(len(completion))).astype(np.float32))
        prompts = [group_prompts[group] for group in groups]
        return RolloutBatch(prompts, completions, old, rewards, groups, truncated)

    return make
