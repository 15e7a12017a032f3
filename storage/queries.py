"""DuckDB in memory, asked for Arrow tables, its errors told as the store's."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.files import StoreError

_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+[\w.]+: ")


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
