"""Model FLOP utilisation of the update on one CUDA card, beside plain transformers with all logits, in one call.

    python -m bench.gpu_train --size 1.5b --context 4096,16384,32768 --json FILE

Random weights of Qwen2.5's shapes, one rollout of the whole context (a prompt of 64 tokens), bfloat16 products, float32
weights and moments, recomputed layers (`--keep-activations`: not). Both sides do forward, backward, clipping and AdamW
on the same tokens. Utilisation counts 6 operations a parameter and token, and those of causal attention, not what is
computed again, over the card's bfloat16 peak (`--peak` in TFLOP/s; an H200's is 989). A side that runs out of memory
says so. Needs torch, transformers and what srpo_core needs. Without a card: `--size toy --device cpu`.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config
from transformers.modeling_layers import GradientCheckpointingLayer

from srpo_core.policy.packing import Ids
from srpo_core.policy.scorer import Scorer, attention_cost

# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied head
SHAPES = {
    "toy": (64, 128, 2, 4, 2, 4096, True),
    "0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "1.5b": (1536, 8960, 28, 12, 2, 151936, True),
}
PROMPT = 64


def policy(size: str, device: str, *, recompute: bool, attention: str) -> PreTrainedModel:
    """Random float32 weights."""
    hidden, intermediate, layers, heads, key_heads, vocabulary, tied = SHAPES[size]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=1 << 17,
        attn_implementation=attention,
    )
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True
    return model


def ours(model: PreTrainedModel, rollout: Ids) -> Callable[[], Tensor]:
    """The loss of our forward pass."""
    scorer = Scorer(model, temperature=1.0, unsampled=[0], autocast=torch.bfloat16)
    packed = scorer.pack([rollout[:PROMPT]], [rollout[PROMPT:]])
    return lambda: -scorer(packed)[0].mean()


def plain(model: PreTrainedModel, rollout: Ids) -> Callable[[], Tensor]:
    """The loss as one writes it first: all logits in float32, log_softmax, and the tokens' own picked from it."""
    ids = torch.from_numpy(rollout)[None].long().to(model.device)

    def loss() -> Tensor:
        with torch.autocast(model.device.type, torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, PROMPT - 1 :]
        return -logits.float().log_softmax(-1).gather(1, ids[0, PROMPT:, None]).mean()

    return loss


def measured(
    make: Callable[[PreTrainedModel, Ids], Callable[[], Tensor]], model: PreTrainedModel, rollout: Ids, steps: int
) -> dict[str, float | str]:
    """Median seconds of a whole step, loss and peak memory of one side."""
    cuda = model.device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    try:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        loss, times, value = make(model, rollout), [], 0.0
        for _ in range(steps + 2):  # two to warm up
            start = time.perf_counter()
            optimizer.zero_grad()
            step = loss()
            step.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            value = float(step.detach())  # waits for the card
            times.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    return {"seconds": statistics.median(times[2:]), "peak_gb": peak, "loss": value}


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), default="1.5b")
    parser.add_argument("--context", default="4096,16384,32768", help="tokens, several with commas between")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the card in bfloat16, dense")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--keep-activations", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    for context in map(int, asked.context.split(",")):
        torch.manual_seed(0)
        rollout = torch.randint(1, SHAPES[asked.size][-2], (context,)).int().numpy()
        for name, make in (("ours", ours), ("plain", plain)):
            torch.manual_seed(1)  # the same weights for both
            model = policy(asked.size, asked.device, recompute=not asked.keep_activations, attention="sdpa")
            operations = (
                6
                * sum(parameter.numel() for parameter in model.parameters())
                * context
                * (1 + attention_cost(model) * context)
            )
            row = {"side": name, "size": asked.size, "context": context, **measured(make, model, rollout, asked.steps)}
            if "seconds" in row:
                row["tokens_per_second"] = context / row["seconds"]
                row["mfu"] = operations / row["seconds"] / (asked.peak * 1e12)
            rows.append(row)
            print(json.dumps(row), flush=True)
            del model
            gc.collect()
            if asked.device == "cuda":
                torch.cuda.empty_cache()
    if asked.json:
        asked.json.write_text(json.dumps({"figures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
