"""A run whose completions are sampled by a vLLM server of its own, as small as vLLM takes one."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, LlamaForCausalLM

from srpo_core.problems.lab import base_policy_dir

_POLICY = {"hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, "initializer_range": 0.15}  # vLLM's least head


def write_settings(directory: Path) -> Path:
    """The settings' file of such a run in a new `directory`, beside the policy that it begins with: random weights."""
    policy = directory / "policy"
    shutil.copytree(base_policy_dir(), policy)  # for its tokenizer
    config = AutoConfig.from_pretrained(policy)
    config.update(_POLICY)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(policy)
    settings = directory / "served.yaml"
    values = {
        "policy": {"model": str(policy)},
        "problems": {"train": 2, "heldout": 1},
        "rollout": {"prompts_per_step": 6, "group_size": 4, "max_new_tokens": 24},
        "engine": {
            "kind": "vllm",
            "arguments": ["--enforce-eager", "--max-model-len", "128"],
            "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        },
        "rewards": {"overlong": 0.5, "overlong_buffer": 20},  # random words are never right, but not equally long
        "update": {"learning_rate": 1e-3},
        "stages": {"math": {"max_steps": 3}, "math_and_code": {"max_steps": 4}},
        "evaluation": {"samples": 2, "every_epochs": 2},
    }
    settings.write_text(json.dumps(values), encoding="utf-8")
    return settings
