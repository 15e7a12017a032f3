"""A step's rollouts as a file, so that other processes can read them: an .npz of plain arrays, nothing pickled."""

from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError


def write_batch(path: Path, batch: RolloutBatch) -> None:
    """Write `batch` to `path`. A ragged field is stored as one array and the lengths of its rows."""
    arrays: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        else:
            rows = [np.asarray(row) for row in value]
            arrays[field.name] = np.concatenate(rows) if rows else np.zeros(0)
            arrays[f"{field.name}/lengths"] = np.array([len(row) for row in rows], dtype=np.int64)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def read_batch(path: Path) -> RolloutBatch:
    """The batch in `path`, as it was written. Raises PolicyError when it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {field.name: _value(arrays, field.name) for field in fields(RolloutBatch)}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise PolicyError(f"{path}: the step's rollouts cannot be read ({error}): do all machines see it?") from error
    return RolloutBatch(**values)


def _value(arrays: Any, name: str) -> Any:
    if f"{name}/lengths" not in arrays:
        return arrays[name]
    ends = np.cumsum(arrays[f"{name}/lengths"])
    return np.split(arrays[name], ends[:-1]) if len(ends) else []
