"""A policy version on disk: the model as transformers writes it, and beside it what the next update needs.

    config.json, model.safetensors, tokenizer files     what engines load
    optimizer.safetensors                               AdamW's moments, named as the model's parameters
    probe.safetensors                                   what engines must be seen to answer with these weights
    trainer.json                                        version, optimizer steps taken

Nothing here is pickled, so loading a checkpoint runs no code. Publishing the directory whole is the caller's.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.policy.probe import write_probe

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "trainer.json"


@dataclass(frozen=True)
class Progress:
    """How far training has come: `version` updates were made, with `optimizer_steps` optimizer steps in all."""

    version: int
    optimizer_steps: int


def save(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write a whole checkpoint into `directory`, which the caller publishes.

    Raises PolicyError, or OSError, when there is no room for it or it may not be written.
    """
    tokenizer.save_pretrained(directory)
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    moments = {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    try:
        model.save_pretrained(directory)
        save_file(moments, directory / OPTIMIZER_FILE)
        write_probe(directory, model)
    except SafetensorError as error:
        raise PolicyError(f"{directory}: the checkpoint was not written ({error}): make room and resume") from error
    (directory / PROGRESS_FILE).write_text(json.dumps(asdict(progress)) + "\n")


def write_servable(policy: Path, directory: Path) -> Path:
    """Write a bare model into `directory` with what an engine must be seen to answer with it. Raises PolicyError."""
    model = load_model(policy)
    try:
        load_tokenizer(policy).save_pretrained(directory)
        model.save_pretrained(directory)
        write_probe(directory, model)
    except (SafetensorError, OSError) as error:
        raise PolicyError(f"{directory}: the model was not written ({error}): make room") from error
    return directory


def load_progress(directory: Path) -> Progress:
    """How far the checkpoint in `directory` has come. Raises PolicyError when that cannot be read."""
    try:
        return Progress(**json.loads((directory / PROGRESS_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise PolicyError(
            f"{directory}: {PROGRESS_FILE} cannot be read ({error}); the checkpoint is not whole"
        ) from error


def load_optimizer(directory: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Put the moments stored in `directory` into `optimizer`, whose parameters are the model's.

    Raises PolicyError when the file is missing, damaged, or of another model.
    """
    try:
        moments = load_file(directory / OPTIMIZER_FILE, device=str(model.device))
    except (OSError, SafetensorError) as error:
        raise PolicyError(
            f"{directory / OPTIMIZER_FILE} cannot be read ({error}); resume from another version"
        ) from error
    parameters = dict(model.named_parameters())
    states: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        if name not in parameters:
            raise PolicyError(f"{directory / OPTIMIZER_FILE} holds moments of {name}, which this model does not have")
        if moment != "step" and value.shape != parameters[name].shape:
            raise PolicyError(f"{directory / OPTIMIZER_FILE} holds moments of {name} in another shape than the model's")
        states.setdefault(parameters[name], {})[moment] = value
    if states and len(states) < len(parameters):
        lost = sorted(name for name, parameter in parameters.items() if parameter not in states)
        raise PolicyError(f"{directory / OPTIMIZER_FILE} is not whole: it lacks the moments of {', '.join(lost)}")
    optimizer.state.update(states)


def model_checksum(directory: Path) -> str:
    """SHA-256 of the model's weights file, in hexadecimal. Raises PolicyError when there is none."""
    try:
        with (directory / MODEL_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PolicyError(f"{directory / MODEL_FILE} cannot be read: {error}") from error
