"""Files of problems: written whole, in the columns that `srpo_core.problems.datasets` reads."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.runs import RunError, WrongUseError
from srpo_core.problems.examples import Example
from storage.files import fsync

SUFFIXES = (".jsonl", ".parquet")
Row = Mapping[str, Any]


def check_output(path: Path) -> None:
    """Raises WrongUseError for a file that cannot be written there: another kind, or one that is there already."""
    if path.suffix not in SUFFIXES:
        raise WrongUseError(f"{path}: its name must end in {' or '.join(SUFFIXES)}")
    if path.exists():
        raise WrongUseError(f"{path} is there already: remove it, or choose another name")
    if not path.parent.is_dir():
        raise WrongUseError(f"{path.parent} is no folder: make it, or choose another one")


def problem_row(example: Example, **more: Any) -> dict[str, Any]:
    """A problem as a row of a file; `more` columns stand over its own."""
    problem = example.problem
    row = {
        "question": problem.question,
        "answer": problem.answer,
        "domain": problem.domain,
        "difficulty": problem.difficulty,
        "source": problem.source,
        "reference": example.reference,
    }
    return row | more


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSONL or Parquet, by the file's name; the file is there whole or not at all. Raises RunError."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".srpo-") as directory:
            temporary = Path(directory) / path.name
            if path.suffix == ".parquet":
                pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), temporary)
            else:
                temporary.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")
            fsync(temporary)
            temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
