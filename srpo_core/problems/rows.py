"""Rows of a data set as plain dicts: from a JSONL, JSON or Parquet file, or from the Hugging Face hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srpo_core.problems.examples import Row
from srpo_core.problems.known import DataSet

SUFFIXES = (".jsonl", ".json", ".parquet")
_INSTALL = "pip install 'srpo[datasets]'"


class DataError(Exception):
    """A data set that cannot be read; the message says which, why, and what to do."""


def file_rows(path: Path) -> Iterator[Row | None]:
    """The rows of a file; None for a line or an element that is no JSON object. Raises DataError."""
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: its name must end in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".json":
        return _json_rows(text, path)
    return (_object(line) for line in text.split("\n") if line.strip())


def hub_rows(dataset: DataSet, split: str) -> Iterator[Row]:
    """The rows of a data set on the Hugging Face hub, all of its configurations. Raises DataError."""
    datasets = _library(f"data set {dataset.name}")
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    if dataset.hub_files:
        files = [f"hf://datasets/{dataset.hub}/{name}" for name in dataset.hub_files]
        calls = [(("json",), {"data_files": files, "streaming": True})]
    else:
        calls = [((dataset.hub, config), {}) for config in dataset.configs]
    try:
        for arguments, options in calls:
            yield from datasets.load_dataset(*arguments, split=dataset.splits[split], **options)
    except Exception as error:  # the library raises errors of a dozen kinds of its own and of its network's
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"data set {dataset.name} cannot be had from the Hugging Face hub ({dataset.hub}): {reason}. Where no hub "
            f"can be reached, name its file in `path`, or a folder with {dataset.name}/{split}.jsonl in SRPO_DATA"
        ) from error


def _json_rows(text: str, path: Path) -> Iterator[Row | None]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, list):
        raise DataError(f"{path} must hold a JSON list of rows, not {type(values).__name__}")
    return (value if isinstance(value, dict) else None for value in values)


def _object(line: str) -> Row | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parquet_rows(path: Path) -> Iterator[Row]:
    datasets = _library(f"Parquet file {path}")
    if not path.is_file():
        raise DataError(f"{path} cannot be read: there is no such file")
    try:
        yield from datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    except Exception as error:  # as above
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _library(wanted_for: str) -> Any:
    """The `datasets` library, an extra: neither the lab nor JSON files need it."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"the library `datasets` is not installed, and {wanted_for} needs it: {_INSTALL}") from error
    datasets.disable_progress_bars()
    return datasets
