"""A run or a store opened for people: every query that reads, nothing that writes, nothing outside the directory.

DuckDB's own settings keep the connection inside the directory (`allowed_directories`, `enable_external_access`,
`lock_configuration`), but COPY may still write there. So DuckDB's parser says what each statement is before it runs.
The type alone is not enough: since DuckDB 2.0, `WITH x AS (COPY … TO …) SELECT …` is a SELECT that writes, and some
table functions run what they are given as text. So the parsed tree of a SELECT is looked at too: it may hold only
query nodes that read, and call only table functions that are known to read.

What a query spills when memory is short goes to a directory of its own outside the store, which `close` removes.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from storage.catalog import connect
from storage.files import StoreError
from storage.queries import literal
from storage.stores import Store, open_store

BATCH = 8192  # rows that are held at a time while a result is streamed

# What a query may be made of (DuckDB's names): not INSERT_QUERY_NODE, COPY_QUERY_NODE or what may come.
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE"}
# The table functions that a query may call, besides the store's own macros. Not query(), json_execute_serialized_sql()
# and destroy_external_resource(), which run a text as a query or a function by its name, nor what may come.
_READING_FUNCTIONS = {
    "read_parquet", "parquet_scan", "parquet_metadata", "parquet_schema", "parquet_file_metadata",
    "parquet_kv_metadata", "parquet_full_metadata", "parquet_bloom_probe", "read_csv", "read_csv_auto", "sniff_csv",
    "read_json", "read_json_auto", "read_json_objects", "read_json_objects_auto", "read_ndjson", "read_ndjson_auto",
    "read_ndjson_objects", "read_text", "read_blob", "glob", "json_each", "json_tree", "range", "generate_series",
    "unnest", "repeat", "repeat_row", "query_table", "histogram", "histogram_values", "summary", "duckdb_columns",
    "duckdb_databases", "duckdb_functions", "duckdb_keywords", "duckdb_memory", "duckdb_optimizers", "duckdb_schemas",
    "duckdb_settings", "duckdb_tables", "duckdb_types", "duckdb_views", "pragma_database_size", "pragma_platform",
    "pragma_show", "pragma_table_info", "pragma_version",
}  # fmt: skip
_COMMENTS = re.compile(r"(\s+|--[^\n]*(\n|$)|/\*.*?\*/)*", re.DOTALL)
_EXPLAIN = re.compile(r"explain\b(\s+analyze\b)?(\s*\(\s*(?:analyze|format)\b[\w\s,]*\))?", re.IGNORECASE)


@dataclass(frozen=True)
class Rows:
    """A result that is read while it is asked for: its schema, and batches of at most `BATCH` rows, to be read once."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Reading:
    """A statement that was found only to read, as DuckDB parsed it; `ReadOnlyStore.check` makes it."""

    statement: duckdb.Statement


class ReadOnlyStore:
    """What `open_readonly` gives; close it, or use it in a `with`."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, spill: "tempfile.TemporaryDirectory[str] | None" = None
    ) -> None:
        """Wrap a connection that is already confined, and the directory that it may spill to, if any."""
        self._connection = connection
        self._spill = spill
        self._result = pa.RecordBatchReader.from_batches(pa.schema([]), [])
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="srpo-sql")
        self._macros = {
            name
            for (name,) in connection.sql("SELECT function_name FROM duckdb_functions() WHERE NOT internal").fetchall()
        }

    def query(self, query: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> pa.Table:
        """The result of one statement that reads (SELECT, SHOW, DESCRIBE, SUMMARIZE, EXPLAIN of these).

        Raises StoreError when the statement is refused (the message says why) or fails.
        """
        statements = self.check(query)
        if len(statements) != 1:
            raise StoreError(f"Refused: {len(statements)} statements; give one statement at a time.")
        rows = self.stream(statements[0], parameters)
        return pa.Table.from_batches(rows.batches, rows.schema)

    def check(self, text: str) -> list[Reading]:
        """The statements of a text, every one of them found to read before any is run. Raises StoreError."""

        def work() -> list[Reading]:
            self._result.close()
            return [self._checked(statement) for statement in self._parse(text)]

        checked: list[Reading] = self._wait_for(work)
        return checked

    def stream(self, reading: Reading, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> Rows:
        """The result of a checked statement, read while it is asked for; Ctrl-C ends the query.

        A connection holds one result: the next one, or the next check, gives up what was left of this one.
        Raises StoreError when the statement fails, here or while its rows are read.
        """
        given = dict(parameters) if isinstance(parameters, Mapping) else parameters

        def start() -> pa.RecordBatchReader:
            self._result.close()
            return self._connection.sql(reading.statement, params=given).to_arrow_reader(BATCH)

        def batches() -> Iterator[pa.RecordBatch]:
            while (batch := self._wait_for(lambda: next(reader, None))) is not None:
                yield batch

        reader = self._result = self._wait_for(start)
        return Rows(reader.schema, batches())

    def close(self) -> None:
        """Close the connection, and remove what it spilled."""
        self._stop()
        self._worker.shutdown()
        self._result.close()
        self._connection.close()
        if self._spill is not None:
            self._spill.cleanup()

    def __enter__(self) -> "ReadOnlyStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, done by a thread of its own: this one waits, and can be interrupted meanwhile."""
        try:
            return self._worker.submit(work).result()
        except KeyboardInterrupt:
            self._stop()
            raise
        except (duckdb.Error, pa.ArrowException, RuntimeError, OSError) as error:
            raise StoreError(f"The query failed: {error}") from error

    def _stop(self) -> None:
        """Wait until no query runs, interrupting again and again: DuckDB forgets what comes before a query begins."""
        idle = self._worker.submit(lambda: None)
        while not idle.done():
            self._connection.interrupt()
            wait([idle], timeout=0.05)

    def _parse(self, text: str) -> list[duckdb.Statement]:
        try:
            return self._connection.extract_statements(text)
        except duckdb.Error as error:
            raise StoreError(f"The query cannot be parsed: {error}") from error

    def _checked(self, statement: duckdb.Statement) -> Reading:
        kind = statement.type.name
        if kind == "EXPLAIN":
            return self._checked_explain(statement.query)
        if kind == "MULTI":
            raise StoreError(
                "Refused: PIVOT that looks its columns up makes a type for them, which writes: name the columns, "
                "as in PIVOT … ON epoch IN (0, 1, 2) USING …"
            )
        if kind != "SELECT":
            raise StoreError(
                f"Refused: {kind} is no statement that only reads, and the store is open for reading alone. "
                "SELECT (also FROM, WITH, SHOW, DESCRIBE, SUMMARIZE) and EXPLAIN of it are allowed."
            )
        self._check_tree(statement.query)
        return Reading(statement)

    def _checked_explain(self, query: str) -> Reading:
        """EXPLAIN ANALYZE runs what it explains: that is checked, and then only that is run."""
        begin = _COMMENTS.match(query)
        match = _EXPLAIN.match(query, begin.end() if begin else 0)
        explained = self._parse(query[match.end() :]) if match else []
        if match is None or len(explained) != 1 or explained[0].type.name == "EXPLAIN":
            raise StoreError("Refused: EXPLAIN is allowed of one SELECT, with no comment between the two.")
        checked = self._checked(explained[0]).statement.query
        (statement,) = self._parse(f"{match[0]} {checked}")
        return Reading(statement)

    def _check_tree(self, query: str) -> None:
        answer = self._connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
        try:
            tree = json.loads(answer[0][0])
        except RecursionError as error:
            raise StoreError("Refused: the query is nested too deeply to be looked at; write it flatter.") from error
        if tree["error"]:
            raise StoreError(f"Refused: DuckDB cannot say what this query does: {tree.get('error_message')}.")
        found = list(_objects(tree))
        nodes = {str(o["type"]) for o in found if str(o.get("type")).endswith("_NODE")}
        if not nodes & _READING_NODES:
            raise StoreError("Refused: DuckDB tells what this query does in a way that is not known here.")
        if writing := sorted(nodes - _READING_NODES):
            what = ", ".join(name.removesuffix("_NODE").removesuffix("_QUERY") for name in writing)
            raise StoreError(f"Refused: the query holds {what}, which writes, and the store is open for reading alone.")
        called = {str(o["function"]["function_name"]).lower() for o in found if o.get("type") == "TABLE_FUNCTION"}
        if unknown := sorted(called - _READING_FUNCTIONS - self._macros):
            raise StoreError(
                f"Refused: {unknown[0]}() is not among the table functions that are known only to read. "
                f"These are: {', '.join(sorted(_READING_FUNCTIONS | self._macros))}."
            )


def open_readonly(where: Path | str | Store) -> ReadOnlyStore:
    """Open a run's place or a store of runs for people: the views, and nothing but reading below `where`.

    Raises StoreError.
    """
    store = open_store(where) if isinstance(where, Path | str) else where
    connection = connect(store)
    spill = tempfile.TemporaryDirectory(prefix="srpo-sql-")
    try:
        # Without a place of its own, DuckDB would spill to the current directory, and let queries read there.
        connection.execute(f"SET temp_directory = {literal(spill.name)}")
        # In this order: the first cannot be set after the second, and nothing after the third.
        allowed = f"{literal(store.root)}, {literal(store.pattern)}"  # paths, and the views' globs
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        spill.cleanup()
        raise StoreError(f"{store.root} cannot be opened for reading alone: {error}") from error
    return ReadOnlyStore(connection, spill)


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object of a parse tree, however deep it is."""
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
