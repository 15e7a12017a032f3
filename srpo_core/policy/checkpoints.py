"""A policy version on disk: the model as transformers writes it, and beside it what the next update needs.

    config.json, model.safetensors, tokenizer files     what engines load, whole
    probe.safetensors                                   what engines must be seen to answer with these weights
    optimizer.safetensors                               AdamW's moments, named as the trained parameters
    optimizer/shard-0000N-….safetensors                 the same in shares, when several processes wrote them
    adapter/                                            with LoRA: the adapter (`srpo_core.policy.lora`)
    trainer.json                                        version, optimizer steps taken

Any number of processes goes on from what any number wrote. Nothing here is pickled, so loading a checkpoint runs no
code: shares are torch.distributed.checkpoint's safetensors files, which tell their own places, not its pickled
metadata. Publishing the directory whole is the caller's.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shares
from torch.distributed.checkpoint.state_dict_saver import save as save_shares
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from srpo_core.policy import lora
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model
from srpo_core.policy.probe import write_probe
from srpo_core.policy.ranks.processes import ALONE, Ranks
from srpo_core.policy.ranks.sharding import whole
from srpo_core.settings.lora import LoraSettings

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
OPTIMIZER_DIRECTORY = "optimizer"
PROGRESS_FILE = "trainer.json"


@dataclass(frozen=True)
class Progress:
    """How far training has come: `version` updates were made, with `optimizer_steps` optimizer steps in all.

    `left_out` of the last updates, one after another, were not finite and changed nothing.
    """

    version: int
    optimizer_steps: int
    left_out: int = 0


def save(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    adapter: LoraSettings | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Write a whole checkpoint into `directory`, which the caller publishes. Every process must call this.

    Raises PolicyError, or OSError, when there is no room for it or it may not be written.
    """
    weights = _whole_weights(model, keep=ranks.leads)
    try:
        if ranks.leads:
            tokenizer.save_pretrained(directory)
            if adapter is not None:
                lora.save_adapter(directory, model, weights, adapter)
                weights = lora.merged(model, weights)
            model.save_pretrained(directory, state_dict=weights)
            in_memory = adapter is None and ranks.size == 1  # else these weights are whole on disk alone
            write_probe(directory, model if in_memory else load_model(directory))
        _save_moments(directory, model, optimizer, ranks)
    except (SafetensorError, CheckpointException) as error:
        raise PolicyError(f"{directory}: the checkpoint was not written ({error}): make room and resume") from error
    if ranks.leads:
        (directory / PROGRESS_FILE).write_text(json.dumps(asdict(progress)) + "\n")
    ranks.wait()


def load_progress(directory: Path) -> Progress:
    """How far the checkpoint in `directory` has come. Raises PolicyError when that cannot be read."""
    try:
        return Progress(**json.loads((directory / PROGRESS_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise PolicyError(
            f"{directory}: {PROGRESS_FILE} cannot be read ({error}); the checkpoint is not whole"
        ) from error


def has_optimizer(directory: Path) -> bool:
    """Whether `directory` holds moments, of one process or of several."""
    return any((directory / name).exists() for name in (OPTIMIZER_FILE, OPTIMIZER_DIRECTORY))


def load_optimizer(
    directory: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, *, ranks: Ranks = ALONE
) -> None:
    """Put the moments stored in `directory` into `optimizer`, whose parameters are the model's trained ones.

    Each process reads its own shares. Every process must call this. Raises PolicyError when a file is missing,
    damaged, or of another model.
    """
    shares = (directory / OPTIMIZER_DIRECTORY).exists()
    place = directory / (OPTIMIZER_DIRECTORY if shares else OPTIMIZER_FILE)
    if not place.exists():
        raise PolicyError(f"{place} is missing; resume from another version")
    try:
        reader = HuggingFaceStorageReader(str(place if shares else directory))
        stored = _stored_moments(place, reader.read_metadata())
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        _require_same(place, stored, parameters)
        moments = {key: _room_for(key, parameters) for key in stored}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load_shares(moments, storage_reader=reader, no_dist=ranks.size == 1)
    except (OSError, SafetensorError, CheckpointException, ValueError, KeyError) as error:
        raise PolicyError(f"{place} cannot be read ({error}); resume from another version") from error
    states: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        states.setdefault(parameters[name], {})[moment] = value
    optimizer.state.update(states)


def model_checksum(directory: Path) -> str:
    """SHA-256 of the model's weights file, in hexadecimal. Raises PolicyError when there is none."""
    try:
        with (directory / MODEL_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PolicyError(f"{directory / MODEL_FILE} cannot be read: {error}") from error


def _whole_weights(model: PreTrainedModel, *, keep: bool) -> dict[str, Tensor]:
    """Every weight by name, whole, in the memory of the process that keeps them; tied ones are one tensor."""
    weights: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            gathered = whole(value.detach())
            seen[id(value)] = gathered if gathered.data_ptr() == value.data_ptr() else gathered.cpu()
        if keep:
            weights[name] = seen[id(value)]
        else:
            seen[id(value)] = seen[id(value)].new_empty(0)
    return weights


def _save_moments(directory: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    moments = {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    if ranks.size == 1:
        save_file(moments, directory / OPTIMIZER_FILE)
        return
    place = directory / OPTIMIZER_DIRECTORY
    place.mkdir(exist_ok=True)
    if moments:
        save_shares(moments, storage_writer=HuggingFaceStorageWriter(str(place), save_distributed=True))


def _stored_moments(place: Path, metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    """What the files at `place` hold of each moment. Raises PolicyError when a part of one is missing."""
    stored = {
        key: value
        for key, value in metadata.state_dict_metadata.items()
        if isinstance(value, TensorStorageMetadata) and "/" in key
    }
    for key, value in stored.items():
        if sum(math.prod(chunk.sizes) for chunk in value.chunks) != math.prod(value.size):
            raise PolicyError(f"{place} is not whole: a part of {key} is missing; resume from another version")
    return stored


def _require_same(place: Path, stored: dict[str, TensorStorageMetadata], parameters: Mapping[str, Tensor]) -> None:
    for key, value in stored.items():
        name, _, moment = key.rpartition("/")
        if name not in parameters:
            raise PolicyError(f"{place} holds moments of {name}, which this model does not have")
        if moment != "step" and value.size != parameters[name].shape:
            raise PolicyError(f"{place} holds moments of {name} in another shape than the model's, or lacks a file")
    kinds = {key.rpartition("/")[2] for key in stored}
    if lost := sorted({name for name in parameters for kind in kinds if f"{name}/{kind}" not in stored}):
        raise PolicyError(f"{place} is not whole: it lacks the moments of {', '.join(lost)}")


def _room_for(key: str, parameters: Mapping[str, Tensor]) -> Tensor:
    name, _, moment = key.rpartition("/")
    parameter = parameters[name]
    if moment == "step":
        return torch.zeros((), dtype=torch.float32, device=parameter.device)
    return torch.zeros_like(parameter.detach())
