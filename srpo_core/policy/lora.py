"""LoRA: the base's weights stand still, and a change of low rank beside each is learned (arXiv 2106.09685).

A version's directory holds the merged model, which engines load, and beside it

    adapter/adapter_config.json, adapter/adapter_model.safetensors      as peft writes them

A sum in float32 cannot be taken apart again to the last bit, so training goes on from the base and the adapter, never
from the merged weights. The base is a directory of its own: in a run, policy version 0.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model
from srpo_core.settings.lora import LoraSettings

ADAPTER_DIRECTORY = "adapter"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."  # how peft names the parts of the model that it wraps


def has_adapter(directory: Path) -> bool:
    """Whether the checkpoint in `directory` was made with LoRA."""
    return (directory / ADAPTER_DIRECTORY).exists()


def load_model_with_adapter(
    checkpoint: Path, base: Path | None, settings: LoraSettings, *, seed: int, device: str
) -> PreTrainedModel:
    """The model of `checkpoint` with its adapter apart; of a checkpoint without one, with a new one.

    `base` is the directory of the weights that stand still, `seed` draws a new adapter. Raises PolicyError when one of
    them cannot be loaded.
    """
    if not has_adapter(checkpoint):
        model = load_model(checkpoint, device=device)
        add_adapter(model, settings, seed=seed)
        return model
    if base is None:
        raise PolicyError(f"{checkpoint} holds merged weights and an adapter: training goes on from its base only")
    model = load_model(base, device=device)
    add_adapter(model, settings, seed=seed)
    load_adapter(checkpoint, model, settings)
    return model


def add_adapter(model: PreTrainedModel, settings: LoraSettings, *, seed: int) -> None:
    """Put an adapter that changes nothing yet beside the linear layers of `model`, and freeze all the rest.

    `seed` draws the adapter's first factors; the second are zero. Raises PolicyError when peft is not installed or
    no layer has such a name.
    """
    peft = _peft()
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        try:
            peft.inject_adapter_in_model(config, model)
        except ValueError as error:
            raise PolicyError(f"update.lora.targets {settings.targets!r} cannot be used: {error}") from error
    for name, layer in _layers(model):
        if not isinstance(layer.base_layer, torch.nn.Linear):
            kind = type(layer.base_layer).__name__
            raise PolicyError(f"update.lora.targets: {name} is a {kind}; only linear layers are supported")


def save_adapter(directory: Path, model: PreTrainedModel, weights: dict[str, Tensor], settings: LoraSettings) -> None:
    """Write the adapter of `model` into `directory`, as peft writes it. `weights`: whole tensors by live name."""
    place = directory / ADAPTER_DIRECTORY
    place.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rpartition(".")[2] for name, _ in _layers(model)}),
    }
    (place / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    stored = {_stored_name(name): value.contiguous() for name, value in weights.items() if _is_adapter(name)}
    save_file(stored, place / _WEIGHTS, metadata={"format": "pt"})


def load_adapter(directory: Path, model: PreTrainedModel, settings: LoraSettings) -> None:
    """Put the adapter stored in `directory` in the place of the one that `model` has.

    Raises PolicyError when it is missing, damaged, or was made with other settings or for another model.
    """
    place = directory / ADAPTER_DIRECTORY
    try:
        config = json.loads((place / _CONFIG).read_text())
        stored = load_file(place / _WEIGHTS, device=str(model.device))
        rank, alpha = config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise PolicyError(f"{place} cannot be read ({error}); resume from another version") from error
    if (rank, alpha) != (settings.rank, settings.alpha):
        raise PolicyError(
            f"{place} has rank {rank} and alpha {alpha}, the settings have {settings.rank} and {settings.alpha}: "
            "train it on as it was made"
        )
    live = {_stored_name(name): value for name, value in model.named_parameters() if _is_adapter(name)}
    if {name: value.shape for name, value in live.items()} != {name: value.shape for name, value in stored.items()}:
        raise PolicyError(f"{place} is an adapter of other layers than this model's with update.lora.targets")
    with torch.no_grad():
        for name, value in live.items():
            value.copy_(stored[name])


def merged(model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the model without adapters that computes the same, by the base's names.

    weights: whole tensors by live name, on one device. W + alpha / rank * B A, in W's type.
    """
    plain = {name: value for name, value in weights.items() if not _is_adapter(name)}
    for name, layer in _layers(model):
        down, up = weights[f"{name}.lora_A.default.weight"], weights[f"{name}.lora_B.default.weight"]
        base = plain[f"{name}.base_layer.weight"]
        plain[f"{name}.base_layer.weight"] = base + (layer.scaling["default"] * (up @ down)).to(base.dtype)
    return {name.replace(".base_layer.", "."): value for name, value in plain.items()}


def _layers(model: PreTrainedModel) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _stored_name(name: str) -> str:
    return _PREFIX + name.replace(".default.", ".")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise PolicyError('update.lora needs peft: pip install "srpo[lora]"') from error
    return peft
