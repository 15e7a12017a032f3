"""A policy on disk and in memory: a causal language model and its tokenizer, as transformers stores them."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from srpo_core.policy.errors import PolicyError

# A policy is loaded at every step: a progress bar each would bury the run's own lines.
transformers_logging.disable_progress_bar()

GENERATION_FILE = "generation_config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(directory: Path, *, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """The causal language model stored in `directory`, from safetensors only, never running its code.

    Raises PolicyError when the directory holds no whole model.
    """
    _require(directory, "config.json")
    _refuse_pickled(directory)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, which the library's types do not say
            directory,
            dtype=DTYPES[dtype],
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,  # said, or the library asks the user at the terminal
            output_loading_info=True,
        )
    except Exception as error:  # damaged files raise whatever the reader of the day raises
        raise PolicyError(f"{directory}: the policy cannot be loaded: {error}") from error
    model: PreTrainedModel = loaded[0]
    if missing := loaded[1]["missing_keys"]:
        raise PolicyError(f"{directory}: the policy is not whole: its weights lack {', '.join(sorted(missing))}")
    _refuse_unsupported(directory, model.config)
    model.to(torch.device(device)).eval()  # type: ignore[arg-type]  # the library's own decorator hides nn.Module.to
    return model


def read_config(directory: Path) -> bytes:
    """The model's configuration as it is stored: equal bytes, equal architecture and end tokens.

    Raises PolicyError without one.
    """
    _require(directory, "config.json")
    generation = directory / GENERATION_FILE
    return (directory / "config.json").read_bytes() + (generation.read_bytes() if generation.is_file() else b"")


def load_weights(model: PreTrainedModel, directory: Path) -> None:
    """Put the weights stored in `directory` in the place of the model's. Raises PolicyError unless all fit."""
    try:
        weights = load_file(directory / "model.safetensors", device=str(model.device))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise PolicyError(f"{directory}: the weights cannot be loaded: {error}") from error
    put_weights(model, weights, str(directory))


def put_weights(model: PreTrainedModel, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy `weights`, by name, into the model's. Raises PolicyError, naming `where` they are from, unless all fit."""
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise PolicyError(f"{where}: the weights cannot be loaded: {error}") from error
    # A weight that is tied to another is stored once: it is there when the other is.
    tied = {name for name in missing if model.config.tie_word_embeddings and name.startswith("lm_head.")}
    if set(missing) - tied or unexpected:
        lacking = ", ".join(sorted((set(missing) - tied) | set(unexpected)))
        raise PolicyError(f"{where}: the weights are not those of this model: {lacking} missing or unknown")


def _require(directory: Path, name: str) -> None:
    if not (directory / name).is_file():
        raise PolicyError(f"{directory} holds no policy: {name} is missing; give a directory that transformers wrote")


def _refuse_pickled(directory: Path) -> None:
    if (directory / "adapter_config.json").exists():
        raise PolicyError(f"{directory} holds an adapter: give the directory of the whole model, adapter merged")
    if not any(directory.glob("*.safetensors")) and (pickled := sorted(directory.glob("*.bin"))):
        raise PolicyError(
            f"{directory} has no model*.safetensors: {pickled[0].name} is pickled and may run code when it is read. "
            "Convert it to safetensors where you trust it"
        )


def _refuse_unsupported(directory: Path, config: PreTrainedConfig) -> None:
    """Refuse what sampler and trainer would compute wrongly: both run the plain decoder and its head apart."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers == {"full_attention"} and getattr(config, "use_sliding_window", True):
        layers |= {"sliding_attention"} if getattr(config, "sliding_window", None) else set()
    scaled = [
        name
        for name in ("final_logit_softcapping", "logits_scaling", "logit_scale")
        if getattr(config, name, None) not in (None, 1, 1.0)
    ]
    if layers != {"full_attention"} or scaled:
        what = sorted(layers - {"full_attention"}) + scaled
        raise PolicyError(
            f"{directory}: models of type {config.model_type} with {', '.join(what)} are not supported: "
            "use one with full attention and plain logits, such as Llama or Qwen2"
        )


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer stored in `directory`. Raises PolicyError when there is none."""
    _require(directory, "tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files raise whatever the reader of the day raises
        raise PolicyError(f"{directory}: the tokenizer cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise PolicyError(f"{directory}: its tokenizer names no end-of-sequence token, so no completion could end")
    return tokenizer


def end_token_ids(directory: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion, ascending: the tokenizer's, and those the stored model generates with.

    A chat model may end a turn and a text by different tokens, of which its tokenizer names one. The model's are in
    generation_config.json, and without that file in config.json: from there transformers writes it into every version.
    Raises PolicyError when the file cannot be read.
    """
    file = directory / (GENERATION_FILE if (directory / GENERATION_FILE).is_file() else "config.json")
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise PolicyError(f"{file}: the end tokens cannot be read: {error}") from error
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if not all(type(token) is int and token >= 0 for token in ids):
        raise PolicyError(f"{file}: eos_token_id is {named!r}: it must be a token's number, or a list of such")
    return sorted({tokenizer.eos_token_id, *ids})


def unsampled_token_ids(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> list[int]:
    """Tokens that no completion may contain: padding and begin-of-sequence, unless they are among `ends`."""
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id} - {None, *ends}
    return sorted(ids)


def sampling_logits(logits: Tensor, *, temperature: float, unsampled: Tensor) -> Tensor:
    """The logits that tokens are drawn from: float32, tempered, unsampled tokens at minus infinity.

    logits (..., V) any float dtype; unsampled int64 (U,). The sampler and the trainer both use this function:
    where they differ, the importance ratio is wrong.
    """
    tempered = logits.float() / temperature
    return tempered.index_fill(-1, unsampled, float("-inf")) if len(unsampled) else tempered
