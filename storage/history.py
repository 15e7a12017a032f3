"""The trajectory history of one run: shards written once, steps committed by their index file, tables beside them.

A run's directory is a store by itself:

    data/run=R/stage=S/epoch=E/step=N/shard-000.parquet     rollouts with everything, in whole groups
    index/run=R/stage=S/epoch=E/step-000000.parquet         narrow columns, pointers; it IS the step's commit
    tables/<table>/run=R/stage=S/epoch=E/<name>.parquet     all other tables
    policies/version-000000/                                published directories
    history.duckdb                                          views and macros only
    _tmp/                                                   what is not yet published

The first three may lie elsewhere, in a store of their own (`storage.stores`); the rest is always local.

Every method may be called by any number of processes at once: the first writer wins, the others adopt. Nothing is
ever rewritten, and nothing here knows the time: a resumed run's tables equal an undisturbed run's.
"""

import hashlib
import json
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.catalog import build_catalog, connect
from storage.files import CorruptFile, LocalStore, MissingFile, StoreError, explain, make_directory, sweep
from storage.queries import in_memory, literal, run_query
from storage.stores import Store, Write
from storage.tables import INDEX, PUBLISHED, SHARDS, TABLES, Table, conform, parse_parquet, write_parquet
from storage.views import SEED

SHARDS_KEY = b"srpo.shards"  # Parquet metadata of an index file: JSON {shard: {sha256, rows, bytes}}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ROWS = re.compile(r"/stage=(\d+)/epoch=(\d+)/([^/]+)\.parquet$")
_PUBLISHED = {table.name: table for table in PUBLISHED}


class RunHistory:
    """The history of run `run`, kept in `store`; the catalog and all temporaries are in the run's own `directory`."""

    def __init__(self, directory: Path, run: str, store: Store | None = None) -> None:
        """Name a history; nothing is touched. Without `store`, the run's own directory is the store.

        Raises StoreError for a run name that cannot be a file's name.
        """
        if not _NAME.fullmatch(run):
            raise StoreError(f"{run!r} cannot name a run: use letters, digits, '.', '_', '-', a letter or digit first.")
        self.directory = directory
        self.run = run
        self.store: Store = store or LocalStore(directory)

    @cached_property
    def _views(self) -> duckdb.DuckDBPyConnection:
        """The views, made once: each query looks anew at which files there are."""
        # A connection that outlives the interpreter makes DuckDB's bindings print leak warnings.
        weakref.finalize(self, vars(self).pop, "_views", None)
        return connect(self.store, comments=False)

    @property
    def tmp_root(self) -> Path:
        """Where temporaries are made, for `publish_file` and `temporary_directory`."""
        return self.directory / "_tmp"

    def create(self) -> None:
        """Make the directories, a zero-row file per table (so that no glob is empty) and the catalog; idempotent.

        The catalog is made anew each time, which heals the absolute paths in it after a move. Raises StoreError.
        """
        if others := [name for name in self.store.folders("index") if name != f"run={self.run}"]:
            raise StoreError(
                f"{self.store.root} already keeps {', '.join(others)}, not run={self.run}: "
                "one place holds one run; choose another place or the run's own name."
            )
        try:
            for directory in (self.tmp_root, self.directory / "policies"):
                make_directory(directory)
        except OSError as error:
            raise explain(error, self.directory) from error
        self.store.create()
        for table in (SHARDS, INDEX, *PUBLISHED):
            name = "step=0/" + SEED if table is SHARDS else SEED
            key = f"{self._folder(_place(table), 0, 0)}/{name}"
            self.store.publish(key, partial(write_parquet, rows=table.empty()))
        build_catalog(self.directory, self.store)

    def write_shard(self, stage: int, epoch: int, step: int, shard: int, rows: pa.Table) -> bool:
        """Publish one shard (whole groups, schema `tables.SHARDS`); False: another attempt was first, its shard stands.

        Raises StoreError for rows that do not fit, StoreFull.
        """
        key = self._shard(stage, epoch, step, shard)
        table = conform(SHARDS, rows, self._key(stage, epoch, step))
        # Until its step is committed, a shard that a power cut took away is sampled again.
        return self.store.publish(key, lambda path: write_parquet(path, table), settled=False)

    def has_shard(self, stage: int, epoch: int, step: int, shard: int) -> bool:
        """Whether this shard is published (its step may not be committed yet)."""
        return self.store.exists(self._shard(stage, epoch, step, shard))

    def read_shard(self, stage: int, epoch: int, step: int, shard: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a published shard, whether its step is committed or not. Raises StoreError, CorruptFile."""
        key = self._shard(stage, epoch, step, shard)
        return parse_parquet(self.store.read(key), self.store.url(key), columns)

    def is_committed(self, stage: int, epoch: int, step: int) -> bool:
        """Whether the step's index file is there, which is what committed means."""
        return self.store.exists(self._index(stage, epoch, step))

    def commit_step(
        self,
        stage: int,
        epoch: int,
        step: int,
        shards: int,
        *,
        metrics: tuple[str, Sequence[Mapping[str, Any]]] | None = None,
        seen: Callable[[], object] = lambda: None,
    ) -> bool:
        """Publish the index of shards 0..`shards`-1; False: the step was committed before.

        `metrics`, a name and rows, are published just before it. `seen` is called as soon as readers see the step,
        which is a moment before the step is safe from a power cut, as it is on return.
        Raises StoreError when a shard is missing or the shards contradict each other, CorruptFile, StoreFull.
        """
        key = self._index(stage, epoch, step)
        if self.store.exists(key):
            return False
        final = self.store.url(key)
        if shards < 1:
            raise StoreError(f"{final} is not published: a step has at least one shard, not {shards}.")
        index, described = self._gather([self._shard(stage, epoch, step, shard) for shard in range(shards)], final)
        index = conform(INDEX, index, self._key(stage, epoch, step))
        _check_step(index, final)
        metadata = {SHARDS_KEY.decode(): json.dumps(described, sort_keys=True)}
        files: list[tuple[str, Write]] = [(key, partial(write_parquet, rows=index, metadata=metadata))]
        if metrics is not None:
            files.insert(0, self._new("metrics", metrics[1], stage, epoch, metrics[0]))
        return self.store.commit(files, after=f"{self._folder('data', stage, epoch)}/step={step}", seen=seen)

    def read_step(self, stage: int, epoch: int, step: int) -> pa.Table:
        """The wide rows of a committed step in the order of its shards, each shard's SHA-256 verified.

        Raises StoreError when the step is not committed or its epoch was pruned, CorruptFile when a shard is not what
        was committed.
        """
        key = self._index(stage, epoch, step)
        try:
            index = self._read(key)
        except MissingFile as error:
            raise StoreError(f"Step {step} of epoch {epoch}, stage {stage} is not committed: {error}") from error
        described: dict[str, dict[str, Any]] = json.loads(index.schema.metadata[SHARDS_KEY])
        try:
            return pa.concat_tables([self._read_verified(shard, facts, key) for shard, facts in described.items()])
        except CorruptFile as error:
            if not self.has("pruned", stage=stage, epoch=epoch):
                raise
            raise StoreError(
                f"Step {step} of epoch {epoch}, stage {stage} was pruned: its rollouts are in `rollouts` without texts "
                f"and tokens, and {self.store.url(self._rows('pruned', stage, epoch, 'rows'))} tells what was removed."
            ) from error

    def publish(
        self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]], *, stage: int, epoch: int, name: str = "rows"
    ) -> bool:
        """Publish rows of a table as one file; False: another attempt was first, its rows stand.

        Raises StoreError for an unknown table or rows that do not fit, StoreFull.
        """
        return self.store.publish(*self._new(table, rows, stage, epoch, name))

    def has(self, table: str, *, stage: int, epoch: int, name: str = "rows") -> bool:
        """Whether this file of a table is published. Raises StoreError for an unknown table."""
        return self.store.exists(self._rows(table, stage, epoch, name))

    def read(
        self, table: str, *, stage: int | None = None, epoch: int | None = None, name: str | None = None
    ) -> pa.Table:
        """Published rows of a table, in order of stage, epoch and file name; zero rows when nothing matches.

        A full key is read by its direct path and must be there. Raises StoreError, CorruptFile.
        """
        if stage is not None and epoch is not None and name is not None:
            try:
                return self._read(self._rows(table, stage, epoch, name))
            except MissingFile as error:
                raise StoreError(f"Table {table} has no such rows: {error}") from error
        keys = self._find(table, stage, epoch, name)
        return pa.concat_tables([_published(table).empty(), *map(self._read, keys)])

    def sql(self, query: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> pa.Table:
        """The result of a query over the views (storage/sql/), as of what is committed now. Raises StoreError."""
        with self._views.cursor() as connection:
            return run_query(connection, query, parameters)

    def query_epoch(self, query: str, *, stage: int, epoch: int) -> pa.Table:
        """The result of a query over `epoch_rollouts`, the committed rollouts (narrow columns) of one epoch.

        Reads that epoch's index files alone, so that the cost does not grow with the history. Raises StoreError.
        """
        committed = self.store.keys(self._folder("index", stage, epoch))
        with in_memory() as connection:
            self.store.prepare(connection)
            self._view(connection, "epoch_rollouts", committed or [f"{self._folder('index', 0, 0)}/{SEED}"])
            return run_query(connection, query)

    def sweep(self) -> int:
        """Remove temporaries that no living process holds; returns how many. Raises StoreError."""
        return sweep(self.tmp_root) + self.store.sweep()

    def _new(
        self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]], stage: int, epoch: int, name: str
    ) -> tuple[str, Write]:
        """Where rows of a table are to be published, and what writes them. Raises StoreError."""
        key = self._rows(table, stage, epoch, name)
        checked = conform(_PUBLISHED[table], rows, {"run": self.run, "stage": stage, "epoch": epoch})
        return key, partial(write_parquet, rows=checked)

    def _key(self, stage: int, epoch: int, step: int) -> dict[str, str | int]:
        return {"run": self.run, "stage": stage, "epoch": epoch, "step": step}

    def _folder(self, place: str, stage: int, epoch: int) -> str:
        if stage < 0 or epoch < 0:
            raise StoreError(f"Stage {stage}, epoch {epoch} cannot be: both count from 0.")
        return f"{place}/run={self.run}/stage={stage}/epoch={epoch}"

    def _shard(self, stage: int, epoch: int, step: int, shard: int) -> str:
        return f"{self._folder('data', stage, epoch)}/step={step}/shard-{shard:03d}.parquet"

    def _index(self, stage: int, epoch: int, step: int) -> str:
        return f"{self._folder('index', stage, epoch)}/step-{step:06d}.parquet"

    def _rows(self, table: str, stage: int, epoch: int, name: str) -> str:
        if not _NAME.fullmatch(name) or f"{name}.parquet" == SEED:
            raise StoreError(f"{name!r} cannot name rows of table {table}: use letters, digits, '.', '_', '-'.")
        return f"{self._folder(_place(_published(table)), stage, epoch)}/{name}.parquet"

    def _find(self, table: str, stage: int | None, epoch: int | None, name: str | None) -> list[str]:
        """Keys of a table's files in order of stage, epoch and file name."""
        folder = f"{_place(_published(table))}/run={self.run}"
        if stage is not None:
            folder += f"/stage={stage}" + (f"/epoch={epoch}" if epoch is not None else "")
        found = []
        for key in self.store.keys(folder):
            if (match := _ROWS.search(key)) is None or f"{match[3]}.parquet" == SEED:
                continue
            if epoch in (None, int(match[2])) and name in (None, match[3]):
                found.append((int(match[1]), int(match[2]), key))
        return [key for _, _, key in sorted(found)]

    def _read(self, key: str) -> pa.Table:
        return parse_parquet(self.store.read(key), self.store.url(key))

    def _read_verified(self, key: str, facts: Mapping[str, Any], index: str) -> pa.Table:
        """A shard, parsed from the very bytes whose SHA-256 was compared with the committed one."""
        path, index = self.store.url(key), self.store.url(index)
        remedy = (
            f"Put a good copy back; without one, and as long as no policy was made from the step, remove {path} and "
            f"{index} and resume the run, which samples it again."
        )
        try:
            data = self.store.read(key)
        except CorruptFile as error:
            raise CorruptFile(f"{error} {index} names it. {remedy}") from error
        if len(data) != facts["bytes"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise CorruptFile(
                f"{path} is not what was committed: {len(data)} bytes, committed were {facts['bytes']} with SHA-256 "
                f"{facts['sha256'][:12]}…. {remedy}"
            )
        return parse_parquet(data, path)

    def _gather(self, keys: list[str], final: str) -> tuple[pa.Table, dict[str, dict[str, Any]]]:
        """The narrow rows of a step's shards with pointers, and what each shard is (sha256, rows, bytes)."""
        narrow = [name for name in INDEX.schema.names if name not in ("file", "row")]
        parts, described = [], {}
        for key in keys:
            try:
                data = self.store.read(key)
            except MissingFile as error:
                raise StoreError(f"{final} is not published: write all {len(keys)} shards first; {error}") from error
            # All of it is checked before it is committed.
            part = parse_parquet(data, self.store.url(key)).select(narrow)
            row = pa.array(range(part.num_rows), pa.int64())
            parts.append(part.append_column("file", pa.repeat(key, part.num_rows)).append_column("row", row))
            described[key] = {"sha256": hashlib.sha256(data).hexdigest(), "rows": part.num_rows, "bytes": len(data)}
        return pa.concat_tables(parts), described

    def _view(self, connection: duckdb.DuckDBPyConnection, name: str, keys: Sequence[str]) -> None:
        files = ", ".join(literal(f"{self.store.pattern}/{key}") for key in keys)
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}], hive_partitioning = false)")


def _place(table: Table) -> str:
    return {"data": "data", "rollouts": "index"}.get(table.name, f"tables/{table.name}")


def _published(table: str) -> Table:
    if table in _PUBLISHED:
        return _PUBLISHED[table]
    hint = " Rollouts go through write_shard, commit_step and read_step." if table in (SHARDS.name, *TABLES) else ""
    raise StoreError(f"There is no table {table!r}: the tables are {', '.join(_PUBLISHED)}.{hint}")


def _check_step(index: pa.Table, final: str) -> None:
    """Refuse shards that together are no step: empty, twice the same rollout or position, a group in two shards."""

    def refuse(what: str, which: object) -> StoreError:
        return StoreError(
            f"{final} is not published: {what} ({which}). Its shards contradict each other, so the sampler that wrote "
            "them is at fault: remove the step's directory under data/, mend it, and sample the step again."
        )

    if not index.num_rows:
        raise refuse("its shards hold no rollouts", "0 rows")
    for columns in (["prompt_id", "sample"], ["position"]):
        twice = index.group_by(columns).aggregate([([], "count_all")]).filter(pc.field("count_all") > 1)
        if twice.num_rows:
            raise refuse(f"{' and '.join(columns)} must be unique within a step", twice.slice(0, 3).to_pylist())
    files = index.group_by("prompt_id").aggregate([("file", "count_distinct")])
    spread = files.filter(pc.field("file_count_distinct") > 1)
    if spread.num_rows:
        raise refuse("a group must lie in one shard", spread.slice(0, 3)["prompt_id"].to_pylist())
