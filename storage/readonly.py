"""A run or a store opened for people: every query that reads, nothing that writes, nothing outside the directory.

DuckDB's own settings keep the connection inside the directory (`allowed_directories`, `enable_external_access`,
`lock_configuration`), but COPY may still write there. So DuckDB's parser says what each statement is before it runs.
The type alone is not enough: since DuckDB 2.0, `WITH x AS (COPY … TO …) SELECT …` is a SELECT that writes, and two
table functions run a query that they are given as text. So the parsed tree of a SELECT is looked at too.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from storage.catalog import connect, literal, run_query
from storage.files import StoreError
from storage.stores import Store, open_store

# What a query may be made of (DuckDB's names): not INSERT_QUERY_NODE, COPY_QUERY_NODE or what may come.
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE"}
_OPAQUE = {"query", "json_execute_serialized_sql"}  # they run what the parser has not seen
_EXPLAIN = re.compile(r"\s*explain(\s+analyze)?\s+", re.IGNORECASE)


class ReadOnlyStore:
    """What `open_readonly` gives; close it, or use it in a `with`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Wrap a connection that is already confined."""
        self._connection = connection

    def query(self, query: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> pa.Table:
        """The result of one statement that reads (SELECT, SHOW, DESCRIBE, SUMMARIZE, EXPLAIN of these).

        Raises StoreError when the statement is refused (the message says why) or fails.
        """
        self._check(query)
        return run_query(self._connection, query, parameters)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> "ReadOnlyStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, query: str) -> None:
        try:
            statements = self._connection.extract_statements(query)
        except duckdb.Error as error:
            raise StoreError(f"The query cannot be parsed: {error}") from error
        if len(statements) != 1:
            raise StoreError(f"Refused: {len(statements)} statements; give one statement at a time.")
        kind = statements[0].type.name
        if kind == "EXPLAIN" and (explain := _EXPLAIN.match(query)):
            self._check(query[explain.end() :])  # EXPLAIN ANALYZE runs what it explains
        elif kind != "SELECT":
            raise StoreError(
                f"Refused: {kind} is no statement that only reads, and the store is open for reading alone. "
                "SELECT (also FROM, WITH, SHOW, DESCRIBE, SUMMARIZE) and EXPLAIN of it are allowed."
            )
        else:
            self._check_tree(statements[0].query)

    def _check_tree(self, query: str) -> None:
        answer = run_query(self._connection, "SELECT json_serialize_sql(?::VARCHAR) AS tree", [query])
        tree = json.loads(answer["tree"][0].as_py())
        if tree["error"]:
            raise StoreError(f"Refused: DuckDB cannot say what this query does: {tree.get('error_message')}.")
        if opaque := sorted({name.lower() for name in _values(tree, "function_name")} & _OPAQUE):
            raise StoreError(
                f"Refused: {opaque[0]}() runs a query given as text, which may write: write it out instead."
            )
        nodes = {name for name in _values(tree, "type") if name.endswith("_NODE")}
        if writing := sorted(nodes - _READING_NODES):
            what = ", ".join(name.removesuffix("_NODE").removesuffix("_QUERY") for name in writing)
            raise StoreError(f"Refused: the query holds {what}, which writes, and the store is open for reading alone.")


def open_readonly(where: Path | str | Store) -> ReadOnlyStore:
    """Open a run's place or a store of runs for people: the views, and nothing but reading below `where`.

    Raises StoreError.
    """
    store = open_store(where) if isinstance(where, Path | str) else where
    connection = connect(store)
    try:
        # In this order: the first cannot be set after the second, and nothing after the third.
        allowed = f"{literal(store.root)}, {literal(store.pattern)}"  # paths, and the views' globs
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise StoreError(f"{store.root} cannot be opened for reading alone: {error}") from error
    return ReadOnlyStore(connection)


def _values(tree: Any, key: str) -> Iterator[str]:
    """Every text that stands under `key` anywhere in a parse tree."""
    if isinstance(tree, dict):
        if isinstance(tree.get(key), str):
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for value in tree:
            yield from _values(value, key)
