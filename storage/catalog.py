"""DuckDB views and macros over the Parquet files of one run, or of a store of many runs.

`connect` makes them in memory, over what is committed now; `build_catalog` keeps them in `history.duckdb` for other
clients. The file holds no rows and is replaced whole, so nobody ever holds it read-write and no reader blocks a run.
Its paths are absolute: build it again after moving a store. Views are described in storage/sql/.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.files import StoreError, replace_file
from storage.stores import Store, open_store
from storage.tables import INDEX, PUBLISHED

SEED = "empty.parquet"  # the zero-row file of every table: a view over a glob without files cannot be made
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+[\w.]+: ")
COMPACTED = "compacted"  # where a finished epoch's rows of all its index files lie once more, in one file
_COMPACTED_KEY = re.compile(r".*\brun=([^/]+)/stage=(\d+)/epoch=(\d+)/[^/]+")
_HIVE = {"run": "VARCHAR", "stage": "BIGINT", "epoch": "BIGINT", "step": "BIGINT"}


def connect(where: Path | str | Store) -> duckdb.DuckDBPyConnection:
    """A connection in memory with all views and macros over a run's directory or a store of runs.

    It may read and write like any DuckDB connection: for people, use `readonly.open_readonly`. Raises StoreError.
    """
    store = open_store(where) if isinstance(where, Path | str) else where
    script = _script(store)
    connection = in_memory()
    try:
        store.prepare(connection)
        connection.execute(script)
    except duckdb.Error as error:
        connection.close()
        raise StoreError(f"The views over {store.root} cannot be made: {told(error)}") from error
    return connection


def build_catalog(directory: Path, store: Store | None = None) -> None:
    """Write `directory`/history.duckdb anew: the same views and macros, for other DuckDB clients.

    They are over `store`, or without one over `directory` itself.

    Checked with 1.5.6, which answers everything but token ids (it lacks BYTE_STREAM_SPLIT of integers). DuckDB
    mistakes a '?' in a database's path for a query string: a store's path may not hold one.
    Raises StoreError, StoreFull.
    """

    script = _script(store or open_store(directory))

    def write(path: Path) -> None:
        with in_memory() as connection:
            if store is not None:
                store.prepare(connection)
            # v1.0.0: so that clients older than the one that writes can open the file.
            connection.execute(f"ATTACH {literal(path)} AS history (STORAGE_VERSION 'v1.0.0'); USE history")
            connection.execute(script)
            connection.execute("USE memory; DETACH history")

    try:
        replace_file(directory / "history.duckdb", directory / "_tmp", write)
    except duckdb.Error as error:
        raise StoreError(f"{directory / 'history.duckdb'} cannot be made: {told(error)}") from error


def in_memory() -> duckdb.DuckDBPyConnection:
    """An empty DuckDB in memory, to which the caller's Python variables are not tables."""
    return duckdb.connect(config={"python_enable_replacements": False})


def run_query(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None
) -> pa.Table:
    """A query's result as an Arrow table. Raises StoreError with DuckDB's message."""
    try:
        given = dict(parameters) if isinstance(parameters, Mapping) else parameters
        relation = connection.sql(query, params=given)
        return relation.to_arrow_table() if relation is not None else pa.table({})
    except (duckdb.Error, RuntimeError) as error:
        raise StoreError(f"The query failed: {told(error)}") from error


def told(error: Exception) -> str:
    """What DuckDB says went wrong; of what a store raised underneath it, the message alone."""
    return _TRACEBACK.sub("", str(error))


def literal(text: str | Path) -> str:
    """A text as a SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"


def run_folders(store: Store) -> list[str]:
    """The folders that each keep a run, as beginnings of keys: "" alone for a run, "NAME/" of each in a store of runs.

    Raises StoreError when there is none.
    """

    def keeps_run(folder: str) -> bool:
        runs = store.folders(f"{folder}index")
        return any(store.exists(f"{folder}index/{run}/stage=0/epoch=0/{SEED}") for run in runs)

    if keeps_run(""):
        return [""]
    if found := [f"{folder}/" for folder in store.folders("") if keeps_run(f"{folder}/")]:
        return found
    raise StoreError(
        f"{store.root} does not exist or keeps no run: give a run's place, or a place of runs, or start a run first."
    )


def _script(store: Store) -> str:
    folders = run_folders(store)
    root = store.pattern if folders == [""] else f"{store.pattern}/*"
    statements = []
    for table in (INDEX, *PUBLISHED):
        place = "index" if table is INDEX else f"tables/{table.name}"
        rows = f"SELECT * FROM {_scan([f'{root}/{place}/{_tree(table.key[:3])}'], table.key[:3])}"
        if table is INDEX:
            rows = _with_compacted(rows, store, folders)
        statements.append(f"CREATE VIEW {table.name} AS {rows}")
        statements.append(f"COMMENT ON VIEW {table.name} IS {literal(table.description)}")
        for column in table.columns:
            statements.append(f"COMMENT ON COLUMN {table.name}.{column.name} IS {literal(column.description)}")
    sql = package_files("storage") / "sql"
    for name in ("macros.sql", "views.sql", "transition.sql"):
        text = (sql / name).read_text(encoding="utf-8")
        keys = tuple(_HIVE)
        statements.append(text.replace("{shards}", _scan([f"{root}/data/{_tree(keys)}"], keys)))
    return ";\n".join(statements)


def _with_compacted(rows: str, store: Store, folders: Sequence[str]) -> str:
    """The rows of all index files, taken from the compacted files of those epochs that have one now.

    Which epochs these are is written into the view: DuckDB then opens no index file of theirs, and a view that was made
    before a compaction goes on reading index files, which compaction leaves where they are.
    """
    keys = [key for folder in folders for key in store.keys(f"{folder}{COMPACTED}")]
    epochs: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        if match := _COMPACTED_KEY.fullmatch(key):
            epochs.setdefault((match[1], match[2]), []).append(match[3])
    if not epochs:
        return rows
    conditions = " AND ".join(
        f"NOT (run = {literal(run)} AND stage = {stage} AND epoch IN ({', '.join(numbers)}))"
        for (run, stage), numbers in epochs.items()
    )
    files = _scan([f"{store.pattern}/{key}" for key in keys], tuple(_HIVE)[:3])
    return f"SELECT * FROM {files} UNION ALL BY NAME {rows} WHERE {conditions}"


def _tree(keys: Sequence[str]) -> str:
    """The glob of every file of a table below the folders of its keys."""
    return "/".join([*(f"{key}=*" for key in keys), "*.parquet"])


def _scan(patterns: Sequence[str], keys: Sequence[str]) -> str:
    """A read over files, pruned by the key columns of their paths."""
    types = ", ".join(f"'{key}': {_HIVE[key]}" for key in keys)
    globs = ", ".join(map(literal, patterns))
    return f"read_parquet([{globs}], hive_partitioning = true, hive_types = {{{types}}})"
