"""Makes the lab's base policy: a 0.3 M parameter Llama, warmed up on solutions until it half masters the world.

    python -m srpo_core.problems.lab.warmup --out DIR

Short chains are common in the warm-up and long ones rare, but none is absent: that is what reinforcement learning
later climbs on. Everything is computed in float64 (Muon's orthogonalisation too, which the one in `torch.optim`
rounds to bfloat16, and norms and rotations, which transformers computes in float32), initial weights come from NumPy's
generator, and the result is rounded to bfloat16 values stored as float32: so machines whose float arithmetic differs
in the last bits still make the same files.
"""

import argparse
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from srpo_core.problems.lab.vocabulary import make_tokenizer
from srpo_core.problems.lab.world import DOMAINS, MAX_DIFFICULTY, draw_problem, solution

HIDDEN, LAYERS, HEADS, HEAD = 96, 3, 4, 24
POSITIONS = 128
ROPE_THETA = 10000.0
IGNORED = -100
CHUNKS = 4
"""A batch is cut into this many pieces of like length, so that short chains are not padded to the longest."""


@dataclass(frozen=True)
class Recipe:
    """How the base policy is made: data, optimizer, and when to stop.

    `tail[n-1]` is the share of chains of n operations. The learning rates fall linearly to zero at `schedule`, but
    the warm-up stops at `steps`: the base is meant to be half finished.
    """

    tail: tuple[float, ...] = (0.45, 0.25, 0.14, 0.09, 0.04, 0.018, 0.008, 0.004)
    steps: int = 284
    schedule: int = 400
    ramp: int = 20
    batch: int = 64
    muon_rate: float = 0.02
    adam_rate: float = 4e-3
    seed: int = 0


def base_config() -> LlamaConfig:
    """The architecture of the base policy."""
    tokenizer = make_tokenizer()
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=HEAD,
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix update is orthogonalised (Jordan et al. 2024), in the parameters' own precision."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients at hand."""
        for group in self.param_groups:
            for matrix in group["params"]:
                velocity = self.state[matrix].setdefault("velocity", torch.zeros_like(matrix))
                velocity.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(velocity, group["momentum"]))
                scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
                matrix.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values are driven to about one by Newton–Schulz steps."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    result: Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return result


def initial_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A float64 model with every matrix normal of standard deviation 1/sqrt(columns), every norm one."""
    model = LlamaForCausalLM(config).double()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                draws = generator.standard_normal(tuple(parameter.shape)) / math.sqrt(parameter.shape[1])
                parameter.copy_(torch.from_numpy(draws))
    _compute_in_float64(model, config)
    return model


class _ExactRotary(nn.Module):
    """Cosines and sines of the positions in float64; transformers computes them in float32."""

    def __init__(self) -> None:
        super().__init__()
        frequencies = ROPE_THETA ** -(torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
        angles = torch.outer(torch.arange(POSITIONS, dtype=torch.float64), frequencies)
        self.angles = torch.cat([angles, angles], dim=-1)  # (positions, head)

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = self.angles[position_ids]
        return angles.cos(), angles.sin()


def _compute_in_float64(model: LlamaForCausalLM, config: LlamaConfig) -> None:
    model.model.rotary_emb = _ExactRotary()
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(HIDDEN, eps=config.rms_norm_eps, dtype=torch.float64)
                setattr(owner, name, norm)


def draw_batch(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, stream: random.Random) -> list[list[list[int]]]:
    """`recipe.batch` pairs [prompt ids, completion ids with <eos>], shortest first."""
    pairs = []
    difficulties = range(1, MAX_DIFFICULTY + 1)
    for _ in range(recipe.batch):
        difficulty = stream.choices(difficulties, recipe.tail)[0]
        problem = draw_problem("train", stream.choice(DOMAINS), difficulty, stream)
        completion = tokenizer(solution(problem), add_special_tokens=False)["input_ids"]
        pairs.append([tokenizer(problem.question)["input_ids"], [*completion, tokenizer.eos_token_id]])
    return sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))


def chunk_loss(model: LlamaForCausalLM, pairs: list[list[list[int]]], pad: int) -> Tensor:
    """Summed negative log-likelihood of the completions, prompts unscored. Rows are padded on the right."""
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    tokens = torch.full((len(pairs), width), pad)  # (B, T)
    targets = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        targets[row, len(prompt) : end] = torch.tensor(completion)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits  # (B, T-1, V)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def warm_up(recipe: Recipe) -> LlamaForCausalLM:
    """Trains the base policy (minutes on one core). Returns it in float32, rounded to bfloat16 values."""
    config = base_config()
    tokenizer = make_tokenizer()
    model = initial_model(config, recipe.seed)
    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and ".layers." in name]
    outer = [p for name, p in model.named_parameters() if p.dim() == 1 or ".layers." not in name]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(inner, recipe.muon_rate),
        torch.optim.AdamW(outer, recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [recipe.muon_rate, recipe.adam_rate]
    stream = random.Random(f"{recipe.seed}/warmup")
    for step in range(recipe.steps):
        pairs = draw_batch(recipe, tokenizer, stream)
        scored = sum(len(completion) for _, completion in pairs)
        size = math.ceil(len(pairs) / CHUNKS)
        for start in range(0, len(pairs), size):
            loss = chunk_loss(model, pairs[start : start + size], tokenizer.pad_token_id) / scored
            loss.backward()
        share = min((step + 1) / recipe.ramp, 1 - step / recipe.schedule)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()
    return _rounded(model, config)


def _rounded(model: LlamaForCausalLM, config: LlamaConfig) -> LlamaForCausalLM:
    plain = LlamaForCausalLM(config)
    plain.load_state_dict({name: value.bfloat16().float() for name, value in model.state_dict().items()})
    return plain


def make_base(out: Path, recipe: Recipe = Recipe()) -> None:
    """Warms a base policy up and writes it to `out`, a folder that `from_pretrained` loads: model and tokenizer."""
    model = warm_up(recipe)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    make_tokenizer().save_pretrained(out)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Make the lab's base policy.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; made if it is not there")
    make_base(parser.parse_args().out)


if __name__ == "__main__":
    main()
