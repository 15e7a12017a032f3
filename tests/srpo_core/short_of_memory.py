"""Updates in an address space that is too small for them, each in a process that is forked from the same state.

Measures what updates with the whole and with half the token budget take, forbids more than a value between them,
and then less than half's. Tells as JSON what the trainer made of it.
"""

import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import UpdateSettings

BUDGET, ROLLOUTS, TOKENS = 4096, 24, 160
place = Path(sys.argv[2])
policy = Path(shutil.copytree(sys.argv[1], place / "policy"))
wide = AutoConfig.from_pretrained(policy, intermediate_size=4096)  # its activations are what an update's memory goes to
AutoModelForCausalLM.from_config(wide).save_pretrained(policy)
random = np.random.default_rng(0)
batch = RolloutBatch(
    prompts=[random.integers(3, 24, 8).astype(np.int32) for _ in range(ROLLOUTS)],
    completions=[random.integers(3, 24, TOKENS).astype(np.int32) for _ in range(ROLLOUTS)],
    logprobs=[np.full(TOKENS, -3.0, dtype=np.float32) for _ in range(ROLLOUTS)],
    rewards=np.arange(ROLLOUTS) % 2 * 1.0,
    groups=np.arange(ROLLOUTS) // 4,
    truncated=np.zeros(ROLLOUTS, dtype=np.bool_),
)


def trainer(budget: int) -> Trainer:
    settings = UpdateSettings(micro_batch_tokens=budget, beta1=0.0, max_grad_norm=1e9, learning_rate=1e-12)
    return Trainer(policy, settings, temperature=1.0)


def most_so_far() -> int:
    """The largest address space that this process had, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak")]
    return int(line.split()[1]) * 1024


def forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` gives in a copy of this process."""
    result = place / "result.json"
    if not (child := os.fork()):
        try:
            result.write_text(json.dumps(work()))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return dict(json.loads(result.read_text()))


def update(budget: int, most: int = resource.RLIM_INFINITY) -> dict[str, Any]:
    """One update within an address space of `most` bytes."""
    limited = trainer(budget)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        metrics = limited.update(batch, seed=0)
    except PolicyError as error:
        return {"message": str(error)}
    peak = most_so_far()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory(dir=place) as directory:
        limited.save(Path(directory))
        moments = load_file(Path(directory) / "optimizer.safetensors")
    gradient = [moments[key].double().flatten() for key in sorted(moments) if key.endswith("/exp_avg")]
    names = ("num_tokens", "optimizer_steps", "frac_tokens_skipped", "clip_ratio/region_mean")
    return {
        "peak": peak,
        "budget": limited._token_budget,
        "counted": {name: metrics[name] for name in names},
        "gradient": torch.cat(gradient).tolist(),
    }


torch.set_num_threads(1)
half, whole = (forked(lambda budget=budget: update(budget)) for budget in (BUDGET // 2, BUDGET))
limited = forked(lambda: update(BUDGET, (half["peak"] + whole["peak"]) // 2))
hopeless = forked(lambda: update(BUDGET, half["peak"] - (whole["peak"] - half["peak"]) // 2))
json.dump({"half": half, "whole": whole, "limited": limited, "hopeless": hopeless}, sys.stdout)
