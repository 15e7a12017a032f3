"""A policy version as a vLLM server reads it: hard links to its files, with the head spelled out.

A model that ties its head to its embeddings stores them once. vLLM (0.32) then packs a copy for the head when it
starts, and a later `reload_weights` answers success without renewing that copy: the head goes on computing with the
old weights. So what is served is never tied: the configuration says so, and a file of its own holds the head. A server
must be *started* from such a copy too. The optimizer's file stays behind, since vLLM reads every safetensors file of a
directory as weights.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from srpo_core.policy.errors import PolicyError

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEAD_FILE = "head.safetensors"
HEAD = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"


def served_copy(checkpoint: Path, root: Path) -> Path:
    """The copy of the policy in `checkpoint` for servers, made under `root` where it is missing.

    It appears whole or not at all. `root` must be on a file system that the servers see under the same path; on the
    checkpoint's own file system nothing but a tied head takes space. Raises PolicyError when the checkpoint cannot be
    read, or the copy not be written.
    """
    copy = root / checkpoint.name
    try:
        if _is_current(copy, checkpoint):
            return copy
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=root) as directory:
            made = Path(directory) / checkpoint.name
            made.mkdir()
            _write(made, checkpoint)
            shutil.rmtree(copy, ignore_errors=True)
            made.rename(copy)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise PolicyError(f"{checkpoint}: no copy for the vLLM servers could be made in {root}: {error}") from error
    return copy


def remove_copies(root: Path, *, keep: Collection[Path]) -> None:
    """Remove every served copy under `root` but those to keep."""
    for path in root.iterdir():
        if path.is_dir() and path not in keep:
            shutil.rmtree(path, ignore_errors=True)


def weight_files(directory: Path) -> dict[str, str]:
    """The weights stored in `directory` and the file of each. Raises OSError or SafetensorError without them."""
    if (directory / INDEX_FILE).is_file():
        index: dict[str, str] = json.loads((directory / INDEX_FILE).read_text())["weight_map"]
        return index
    with safe_open(directory / MODEL_FILE, framework="pt") as weights:
        return dict.fromkeys(weights.keys(), MODEL_FILE)


def _is_current(copy: Path, checkpoint: Path) -> bool:
    """Whether the copy is of these very files. One that was copied over file systems has their size and time."""
    if not (copy / CONFIG_FILE).is_file():
        return False
    for file, name in _names(weight_files(checkpoint)).items():
        if not (copy / name).is_file():
            return False
        ours, theirs = (copy / name).stat(), (checkpoint / file).stat()
        if (ours.st_size, ours.st_mtime_ns) != (theirs.st_size, theirs.st_mtime_ns):
            return False
    return True


def _names(files: dict[str, str]) -> dict[str, str]:
    """What the weight files are called in a copy: `model.safetensors` would be read alone, without the head's file."""
    return {file: f"weights-{place}.safetensors" for place, file in enumerate(sorted(set(files.values())))}


def _write(directory: Path, checkpoint: Path) -> None:
    files = weight_files(checkpoint)
    names = _names(files)
    config: dict[str, Any] = json.loads((checkpoint / CONFIG_FILE).read_text())
    for path in checkpoint.iterdir():
        if path.name in names:
            _link(path, directory / names[path.name])
        elif path.is_file() and path.suffix != ".safetensors" and path.name not in {CONFIG_FILE, INDEX_FILE}:
            _link(path, directory / path.name)
    index = {weight: names[file] for weight, file in files.items()}
    if HEAD not in files:
        with safe_open(checkpoint / files[EMBEDDINGS], framework="pt") as weights:
            save_file({HEAD: weights.get_tensor(EMBEDDINGS)}, directory / HEAD_FILE, metadata={"format": "pt"})
        index[HEAD] = HEAD_FILE
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=1) + "\n")
    (directory / CONFIG_FILE).write_text(json.dumps(config | {"tie_word_embeddings": False}, indent=1) + "\n")


def _link(path: Path, place: Path) -> None:
    path = path.resolve()  # a hub's cache holds symbolic links, whose ends a server may not see
    try:
        os.link(path, place)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(path, place)
