"""Verification: every published file of a run, or of a store of runs, is read again and held against what it should be.

- A shard: size and SHA-256 as its step's index recorded them.
- An index file, a compacted one, a table's file: its seal (a SHA-256 of its own) and its pages' checksums.
- A step from which a policy was made, or that the plan of a finished epoch has: its index file is there.
- A compacted file: the index files whose rows it has are those that are there.

Shards that no index names are of a step that is not committed: they are no fault. Policy versions are not read: their
SHA-256 is compared whenever one is loaded.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from storage.compaction import STEPS
from storage.files import CorruptFile, MissingFile
from storage.history import SHARDS_KEY
from storage.stores import Store
from storage.tables import is_sealed, parse_parquet
from storage.views import COMPACTED, SEED, run_folders

_STEP = re.compile(r".*/stage=(\d+)/epoch=(\d+)/step-(\d+)\.parquet")
_INDEX_REMEDY = (
    "Put a good copy back. Without one, and as long as its shards are whole, remove it and commit the step again: "
    "while the run trains on that epoch `srpo resume` does, else RunHistory.commit_step."
)
_SHARD_REMEDY = "Put a good copy back; docs/resume.md tells what can be done without one."
_COMPACTED_REMEDY = "Remove it and run `srpo history compact` again: the index files have its rows."


@dataclass(frozen=True)
class Fault:
    """A file that is not what it should be: its path or URL, what is wrong, and what to do."""

    place: str
    what: str
    remedy: str


@dataclass
class Verified:
    """What was read, and what was found."""

    files: Counter[str] = field(default_factory=Counter)  # shards, index, compacted, tables: counts
    bytes: int = 0
    rollouts: int = 0
    pruned: int = 0  # epochs whose shards were removed on purpose
    uncommitted: int = 0  # shards that no index names
    faults: list[Fault] = field(default_factory=list)


def verify(store: Store) -> Verified:
    """Read every file of a run or of a store of runs. Raises StoreError when there is no run or no way to read."""
    found = Verified()
    for folder in run_folders(store):
        _Verification(store, folder, found).run()
    return found


class _Verification:
    """The verification of one run, whose keys begin with `folder`."""

    def __init__(self, store: Store, folder: str, found: Verified) -> None:
        self._store, self._folder, self._found = store, folder, found
        self._digests: dict[str, str] = {}  # SHA-256 of every index file, by its key below `folder`
        self._named: set[str] = set()  # shards that an index names

    def run(self) -> None:
        tables: dict[str, list[dict[str, Any]]] = {"epochs": [], "policies": [], "pruned": [], "transitions": []}
        for key in self._keys("tables"):
            rows = self._narrow(key, "tables", f"{_SHARD_REMEDY}")
            if rows is not None and (name := key.split("/")[1]) in tables:
                tables[name] += rows.to_pylist()
        pruned = {(row["stage"], row["epoch"]) for row in tables["pruned"]}
        self._found.pruned += len(pruned)
        for key in self._keys("index"):
            self._step(key, pruned)
        self._missing_steps(tables)
        for key in self._keys(COMPACTED):
            self._compacted(key)
        shards = {key for key in self._keys("data") if not key.endswith(SEED)}
        self._found.uncommitted += len(shards - self._named)

    def _keys(self, place: str) -> list[str]:
        return [key.removeprefix(self._folder) for key in self._store.keys(self._folder + place)]

    def _fault(self, key: str, what: str, remedy: str) -> None:
        self._found.faults.append(Fault(self._store.url(self._folder + key), what, remedy))

    def _read(self, key: str, kind: str, remedy: str) -> bytes | None:
        try:
            data = self._store.read(self._folder + key)
        except MissingFile:
            self._fault(key, "is missing", remedy)
            return None
        except CorruptFile as error:
            self._fault(key, f"cannot be read: {error}", remedy)
            return None
        self._found.files[kind] += 1
        self._found.bytes += len(data)
        return data

    def _narrow(self, key: str, kind: str, remedy: str) -> pa.Table | None:
        """The rows of a sealed file; None, and a fault, when it is not what was written."""
        if (data := self._read(key, kind, remedy)) is None:
            return None
        if kind == "index":
            self._digests[key] = hashlib.sha256(data).hexdigest()
        if not (sealed := is_sealed(data)):
            what = "carries no seal" if sealed is None else "is not what was written: its SHA-256 is another"
            self._fault(key, what, remedy)
            return None
        try:
            return parse_parquet(data, key)
        except CorruptFile as error:
            self._fault(key, str(error), remedy)
            return None

    def _step(self, key: str, pruned: set[tuple[int, int]]) -> None:
        index = self._narrow(key, "index", _INDEX_REMEDY)
        if index is None or (match := _STEP.fullmatch(key)) is None:
            return
        self._found.rollouts += index.num_rows
        described: dict[str, dict[str, Any]] = json.loads(index.schema.metadata[SHARDS_KEY])
        self._named |= set(described)
        gone = (int(match[1]), int(match[2])) in pruned
        for shard, facts in described.items():
            if not gone:
                self._shard(shard, facts)
            elif self._store.exists(self._folder + shard):
                self._fault(shard, "is left of an epoch that was pruned", "Prune the epoch again: it was interrupted.")

    def _shard(self, key: str, facts: Mapping[str, Any]) -> None:
        if (data := self._read(key, "shards", _SHARD_REMEDY)) is None:
            return
        if len(data) != facts["bytes"]:
            self._fault(key, f"has {len(data)} bytes, committed were {facts['bytes']}", _SHARD_REMEDY)
        elif hashlib.sha256(data).hexdigest() != facts["sha256"]:
            self._fault(key, "is not what was committed: its SHA-256 is another", _SHARD_REMEDY)

    def _missing_steps(self, tables: Mapping[str, list[dict[str, Any]]]) -> None:
        for key in sorted({*_learned(tables), *_planned(tables)} - set(self._digests)):
            if not any(fault.place == self._store.url(self._folder + key) for fault in self._found.faults):
                self._fault(key, "is missing", _INDEX_REMEDY)

    def _compacted(self, key: str) -> None:
        rows = self._narrow(key, "compacted", _COMPACTED_REMEDY)
        if rows is None:
            return
        epoch = key.removeprefix(f"{COMPACTED}/").rpartition("/")[0]
        there = {name: digest for name, digest in self._digests.items() if name.startswith(f"index/{epoch}/")}
        if json.loads(rows.schema.metadata[STEPS]) != there:
            self._fault(key, "has not the rows of the epoch's index files", _COMPACTED_REMEDY)


def _learned(tables: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Keys of the index files of all steps from which a policy was made."""
    for row in tables["policies"]:
        if row["version"]:
            yield _index_key(row, row["step"])


def _planned(tables: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Keys of the index files of all finished epochs."""
    finished = {(row["stage"], row["epoch"]) for row in tables["transitions"]}
    for row in tables["epochs"]:
        if (row["stage"], row["epoch"]) in finished:
            yield from (_index_key(row, step) for step in range(row["steps"]))


def _index_key(row: Mapping[str, Any], step: int) -> str:
    return f"index/run={row['run']}/stage={row['stage']}/epoch={row['epoch']}/step-{step:06d}.parquet"
