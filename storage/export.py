"""Export: rows to a Parquet file, and a run's rollouts to a dataset folder as Hugging Face's `datasets` loads it.

    DIR/README.md                             the card: what it is, how it was made, every column
    DIR/data/train-00000-of-00004.parquet     rollouts with texts, token ids and log-probabilities, step after step

Files appear whole or not at all, and never replace anything. They are in pyarrow's ordinary encoding, which every
Parquet reader knows; the history's own is smaller.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.catalog import connect
from storage.files import StoreError, explain, publish_directory, publish_file, temporary_directory
from storage.history import RunHistory
from storage.queries import run_query
from storage.tables import ROW_GROUP, SHARDS

FILE_BYTES = 512 << 20  # of rows in memory; a file of the dataset gets further steps until it has as many
_YAML_TYPES = {pa.string(): "string", pa.int64(): "int64", pa.int32(): "int32", pa.float64(): "float64",
               pa.float32(): "float32", pa.bool_(): "bool"}  # fmt: skip
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def write_table(rows: pa.Table, path: Path) -> None:
    """Write rows to a new Parquet file. Raises StoreError when it exists or its directory does not, StoreFull."""
    _refuse_existing(path)
    if not publish_file(path, path.absolute().parent, lambda new: pq.write_table(rows, new, compression="zstd")):
        _refuse_existing(path)


def export_dataset(history: RunHistory, directory: Path) -> int:
    """Write all committed rollouts of a run, but those of pruned epochs, to a new dataset folder; returns how many.

    Every shard's SHA-256 is verified. Raises StoreError when the folder exists or there is nothing to export,
    CorruptFile, StoreFull.
    """
    _refuse_existing(directory)
    steps = _steps(history)
    if not steps:
        raise StoreError(
            f"{history.store.root} has no rollouts to export: no step is committed, or all epochs were pruned. "
            f"{directory} was not made."
        )
    with temporary_directory(directory.absolute().parent) as new:
        try:
            rollouts = _fill(new, history, steps)
        except OSError as error:
            raise explain(error, directory) from error
        if not publish_directory(new, directory):
            _refuse_existing(directory)
    return rollouts


def _fill(new: Path, history: RunHistory, steps: Sequence[tuple[int, int, int]]) -> int:
    """Write the dataset's files into an empty folder; returns how many rollouts they have."""
    (new / "data").mkdir()
    rollouts = tokens = 0
    files: list[Path] = []
    for rows in _large_tables(history, steps):
        files.append(new / "data" / f"{len(files)}.parquet")
        pq.write_table(rows, files[-1], row_group_size=4 * ROW_GROUP, compression="zstd")
        rollouts, tokens = rollouts + rows.num_rows, tokens + sum(rows["completion_tokens"].to_pylist())
    for number, path in enumerate(files):
        path.rename(path.with_name(f"train-{number:05d}-of-{len(files):05d}.parquet"))
    (new / "README.md").write_text(_card(history, rollouts, tokens, len(steps)), encoding="utf-8")
    return rollouts


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise StoreError(f"{path} exists, and nothing is overwritten: choose another name, or remove it first.")
    if not path.absolute().parent.is_dir():
        raise StoreError(f"{path} cannot be written: make the directory {path.absolute().parent} first.")


def _steps(history: RunHistory) -> list[tuple[int, int, int]]:
    """(stage, epoch, step) of every committed step whose epoch was not pruned, in order."""
    query = (
        "SELECT DISTINCT stage, epoch, step FROM rollouts ANTI JOIN pruned USING (run, stage, epoch) "
        "ORDER BY stage, epoch, step"
    )
    return [(row["stage"], row["epoch"], row["step"]) for row in history.sql(query).to_pylist()]


def _large_tables(history: RunHistory, steps: Sequence[tuple[int, int, int]]) -> Iterator[pa.Table]:
    """The rows of the steps, in order, in tables of FILE_BYTES or a step more."""
    waiting: list[pa.Table] = []
    for stage, epoch, step in steps:
        waiting.append(history.read_step(stage, epoch, step))
        if sum(rows.nbytes for rows in waiting) >= FILE_BYTES:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def _card(history: RunHistory, rollouts: int, tokens: int, steps: int) -> str:
    """The dataset's card: YAML that `datasets` reads, then text for people."""
    size = next((name for limit, name in _SIZES if rollouts < limit), "n>10M")
    features = "\n".join(f"  - name: {c.name}\n    {_yaml_type(c.type)}" for c in SHARDS.columns)
    columns = "\n".join(f"| `{c.name}` | {_told_type(c.type)} | {c.description} |" for c in SHARDS.columns)
    return f"""---
pretty_name: Rollouts of the SRPO run {history.run}
license: unknown # yours to choose: that of the problems and of the model that wrote the completions
task_categories:
- text-generation
tags:
- reinforcement-learning
- rollouts
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
dataset_info:
  features:
{features}
---

# Rollouts of the SRPO run {history.run}

{rollouts:,} rollouts of {tokens:,} completion tokens: every completion that was sampled in {steps:,} steps of
training with SRPO (two-Staged history-Resampling Policy Optimization), also those that training left out, with its
prompt, token ids, the sampler's log-probability of each token, and its grades. `srpo history export` wrote them from
the run's history, shard by shard, each compared with the SHA-256 that was recorded when it was committed.

{_epochs(history)}

    from datasets import load_dataset
    rollouts = load_dataset("path/to/this/folder", split="train")

One row per rollout, in order of stage, epoch, step and position:

| column | type | |
|---|---|---|
{columns}
"""


def _epochs(history: RunHistory) -> str:
    """A table of the run's epochs."""
    query = """SELECT stage, epoch, prompts, rollouts, mean_pass_rate, mean_length,
        EXISTS (SELECT 1 FROM pruned AS p WHERE p.run = e.run AND p.stage = e.stage AND p.epoch = e.epoch) AS pruned
        FROM epoch_stats AS e ORDER BY stage, epoch"""
    with connect(history.store) as views:
        rows = run_query(views, query).to_pylist()
    lines = [
        "| stage | epoch | prompts | rollouts | mean pass rate | mean length (tokens) | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate = "not graded" if row["mean_pass_rate"] is None else f"{row['mean_pass_rate']:.3f}"
        there = "pruned: not in this dataset" if row["pruned"] else ""
        lines.append(
            f"| {row['stage']} | {row['epoch']} | {row['prompts']:,} | {row['rollouts']:,} | {rate} | "
            f"{row['mean_length']:.0f} | {there} |"
        )
    return "\n".join(lines)


def _yaml_type(dtype: pa.DataType) -> str:
    return f"sequence: {_YAML_TYPES[dtype.value_type]}" if pa.types.is_list(dtype) else f"dtype: {_YAML_TYPES[dtype]}"


def _told_type(dtype: pa.DataType) -> str:
    return f"list of {_YAML_TYPES[dtype.value_type]}" if pa.types.is_list(dtype) else _YAML_TYPES[dtype]
