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
from storage.tables import INDEX, PUBLISHED

SEED = "empty.parquet"  # the zero-row file of every table: a view over a glob without files cannot be made
_HIVE = {"run": "VARCHAR", "stage": "BIGINT", "epoch": "BIGINT", "step": "BIGINT"}


def connect(directory: Path) -> duckdb.DuckDBPyConnection:
    """A connection in memory with all views and macros over a run's directory or a store of runs.

    It may read and write like any DuckDB connection: for people, use `readonly.open_readonly`. Raises StoreError.
    """
    connection = in_memory()
    try:
        connection.execute(_script(directory))
    except duckdb.Error as error:
        connection.close()
        raise StoreError(f"The views over {directory} cannot be made: {error}") from error
    return connection


def build_catalog(directory: Path) -> None:
    """Write `directory`/history.duckdb anew: the same views and macros, for other DuckDB clients.

    Checked with 1.5.6, which answers everything but token ids (it lacks BYTE_STREAM_SPLIT of integers). DuckDB
    mistakes a '?' in a database's path for a query string: a store's path may not hold one.
    Raises StoreError, StoreFull.
    """

    def write(path: Path) -> None:
        with in_memory() as connection:
            # v1.0.0: so that clients older than the one that writes can open the file.
            connection.execute(f"ATTACH {literal(path)} AS history (STORAGE_VERSION 'v1.0.0'); USE history")
            connection.execute(_script(directory))
            connection.execute("USE memory; DETACH history")

    try:
        replace_file(directory / "history.duckdb", directory / "_tmp", write)
    except duckdb.Error as error:
        raise StoreError(f"{directory / 'history.duckdb'} cannot be made: {error}") from error


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
        raise StoreError(f"The query failed: {error}") from error


def literal(text: str | Path) -> str:
    """A text as a SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"


def escaped(directory: Path) -> str:
    """A directory's absolute path as a glob that matches it alone."""
    return re.sub(r"[\[*?]", r"[\g<0>]", str(directory.absolute()))


def _script(directory: Path) -> str:
    root = _root(directory)
    statements = []
    for table in (INDEX, *PUBLISHED):
        place = "index" if table is INDEX else f"tables/{table.name}"
        statements.append(f"CREATE VIEW {table.name} AS SELECT * FROM {_scan(root, place, table.key[:3])}")
        statements.append(f"COMMENT ON VIEW {table.name} IS {literal(table.description)}")
        for column in table.columns:
            statements.append(f"COMMENT ON COLUMN {table.name}.{column.name} IS {literal(column.description)}")
    sql = package_files("storage") / "sql"
    for name in ("macros.sql", "views.sql"):
        text = (sql / name).read_text(encoding="utf-8")
        statements.append(text.replace("{shards}", _scan(root, "data", tuple(_HIVE))))
    return ";\n".join(statements)


def _root(directory: Path) -> str:
    """The glob under which runs lie: the directory itself for a run, one level more for a store of runs."""
    if not directory.is_dir():
        raise StoreError(f"{directory} does not exist or is not a directory: check the path of the run or store.")
    root = escaped(directory)
    if next(directory.glob(f"index/run=*/stage=0/epoch=0/{SEED}"), None):
        return root
    if next(directory.glob(f"*/index/run=*/stage=0/epoch=0/{SEED}"), None):
        return root + "/*"
    raise StoreError(f"{directory} keeps no run: give a run's directory, or a directory of runs, or start a run first.")


def _scan(root: str, place: str, keys: Sequence[str]) -> str:
    """A read over every file of one table, pruned by the key columns of its path."""
    folders = "/".join(f"{key}=*" for key in keys)
    types = ", ".join(f"'{key}': {_HIVE[key]}" for key in keys)
    glob = literal(f"{root}/{place}/{folders}/*.parquet")
    return f"read_parquet({glob}, hive_partitioning = true, hive_types = {{{types}}})"
