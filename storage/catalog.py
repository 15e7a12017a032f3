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


def _script(store: Store) -> str:
    root = _root(store)
    statements = []
    for table in (INDEX, *PUBLISHED):
        place = "index" if table is INDEX else f"tables/{table.name}"
        statements.append(f"CREATE VIEW {table.name} AS SELECT * FROM {_scan(root, place, table.key[:3])}")
        statements.append(f"COMMENT ON VIEW {table.name} IS {literal(table.description)}")
        for column in table.columns:
            statements.append(f"COMMENT ON COLUMN {table.name}.{column.name} IS {literal(column.description)}")
    sql = package_files("storage") / "sql"
    for name in ("macros.sql", "views.sql", "transition.sql"):
        text = (sql / name).read_text(encoding="utf-8")
        statements.append(text.replace("{shards}", _scan(root, "data", tuple(_HIVE))))
    return ";\n".join(statements)


def _root(store: Store) -> str:
    """The glob under which runs lie: the store's root for a run, one level more for a store of runs."""

    def keeps_run(folder: str) -> bool:
        runs = store.folders(f"{folder}index")
        return any(store.exists(f"{folder}index/{run}/stage=0/epoch=0/{SEED}") for run in runs)

    if keeps_run(""):
        return store.pattern
    if any(keeps_run(f"{folder}/") for folder in store.folders("")):
        return store.pattern + "/*"
    raise StoreError(
        f"{store.root} does not exist or keeps no run: give a run's place, or a place of runs, or start a run first."
    )


def _scan(root: str, place: str, keys: Sequence[str]) -> str:
    """A read over every file of one table, pruned by the key columns of its path."""
    folders = "/".join(f"{key}=*" for key in keys)
    types = ", ".join(f"'{key}': {_HIVE[key]}" for key in keys)
    glob = literal(f"{root}/{place}/{folders}/*.parquet")
    return f"read_parquet({glob}, hive_partitioning = true, hive_types = {{{types}}})"
