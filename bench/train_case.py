"""What both sides of the training bench learn from: a policy's directory and rollouts with rewards, in one file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

GROUP = 8


@dataclass(frozen=True)
class Case:
    """N rollouts of `GROUP` a prompt; rows are those that TRL puts through the model at once."""

    policy: str
    prompts: list[list[int]]
    completions: list[list[int]]
    rewards: list[float]
    rows: int
    threads: int

    def write(self, path: Path) -> Path:
        """As JSON, for the processes that learn."""
        path.write_text(json.dumps(asdict(self)))
        return path


def rewards(groups: int, *, zero_variance: bool) -> list[float]:
    """Half of every group solved; with `zero_variance` every second group has solved all."""
    mixed, solved = [1.0, 0.0] * (GROUP // 2), [1.0] * GROUP
    return [value for n in range(groups) for value in (solved if zero_variance and n % 2 else mixed)]


def lab_rollouts() -> tuple[Path, list[list[int]], list[list[int]]]:
    """The lab's base, and the demo's own step sampled from it: 32 prompts of 8 rollouts."""
    from bench.lab_batch import lab_engine, lab_step, sample  # the verifiers' memory is no part of an update
    from srpo_core.problems.lab import base_policy_dir

    rollouts = sample(lab_engine(), lab_step(), GROUP)
    prompts = [[int(token) for token in rollout.prompt_token_ids] for rollout in rollouts]
    return base_policy_dir(), prompts, [rollout.completion.token_ids.tolist() for rollout in rollouts]


def smollm2_rollouts(
    directory: Path, *, layers: int = 30, groups: int = 4
) -> tuple[Path, list[list[int]], list[list[int]]]:
    """A random policy of SmolLM2-135M's shape, and random rollouts of a word problem's size.

    Prompts of 80 to 140 tokens; completions of 30 to 256, log-normal with median 100, as lengths of one group spread.
    """
    random, vocabulary = np.random.default_rng(0), 49152
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    words = {f"w{n}": n for n in range(3, vocabulary)} | {"<pad>": 0, "<bos>": 1, "<eos>": 2}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    ).save_pretrained(directory)
    prompts, completions = [], []
    for _ in range(groups):
        prompt = random.integers(3, vocabulary, random.integers(80, 141)).tolist()
        for length in np.clip(random.lognormal(np.log(100), 0.5, GROUP), 30, 256).astype(int):
            prompts.append(prompt)
            completions.append([*random.integers(3, vocabulary, length - 1).tolist(), 2])
    return directory, prompts, completions
