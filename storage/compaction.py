"""Compaction: the narrow rows of a finished epoch in one file, so that views open one file an epoch, not one a step.

    compacted/run=R/stage=S/epoch=E/index.parquet     the rows of all index files of the epoch, in order of steps

The index files stay where they are: they are the commits, `read_step` goes by them, and together they are small. So
no reader can lose anything. A view reads the compacted file of those epochs alone that had one when the view was made,
and the index files of all others; which they are stands in the view, see `storage.catalog`. A kill leaves the file
published or not, and the views of history.duckdb as they were until they are made anew, last.
"""

import hashlib
import json

import pyarrow as pa

from storage.catalog import build_catalog
from storage.files import StoreError
from storage.history import RunHistory
from storage.tables import parse_parquet, write_parquet
from storage.views import COMPACTED

STEPS = b"srpo.steps"  # Parquet metadata of a compacted file: JSON {key of an index file: its SHA-256}


def compact(history: RunHistory, epochs: list[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
    """Compact these (stage, epoch), or all finished ones, and make the catalog anew; gives those newly compacted.

    Safe under readers, writers and other compactions. Raises StoreError for an epoch that is not finished, CorruptFile.
    """
    finished = finished_epochs(history)
    if unfinished := sorted(set(epochs or ()) - set(finished)):
        stage, epoch = unfinished[0]
        raise StoreError(
            f"Epoch {epoch} of stage {stage} is not finished in {history.store.root}, so it may get further steps: "
            "compact it when it is. Nothing was compacted."
        )
    done = [(stage, epoch) for stage, epoch in epochs or finished if _compact_epoch(history, stage, epoch)]
    build_catalog(history.directory, history.store)
    return done


def finished_epochs(history: RunHistory) -> list[tuple[int, int]]:
    """(stage, epoch) of every epoch that has its decision about the stage and all steps of its plan, in order."""
    decided = {(row["stage"], row["epoch"]) for row in history.read("transitions").to_pylist()}
    return [
        (plan["stage"], plan["epoch"])
        for plan in history.read("epochs").to_pylist()
        if (plan["stage"], plan["epoch"]) in decided
        and all(history.is_committed(plan["stage"], plan["epoch"], step) for step in range(plan["steps"]))
    ]


def _compact_epoch(history: RunHistory, stage: int, epoch: int) -> bool:
    folder = f"run={history.run}/stage={stage}/epoch={epoch}"
    final = f"{COMPACTED}/{folder}/index.parquet"
    if history.store.exists(final):
        return False
    parts, digests = [], {}
    for key in history.store.keys(f"index/{folder}"):  # their names sort as their steps do
        data = history.store.read(key)
        parts.append(parse_parquet(data, history.store.url(key)).replace_schema_metadata())
        digests[key] = hashlib.sha256(data).hexdigest()
    rows = pa.concat_tables(parts)
    metadata = {STEPS.decode(): json.dumps(digests)}
    return history.store.publish(final, lambda path: write_parquet(path, rows, metadata))
