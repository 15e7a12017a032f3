"""Results of queries as a table for people, or as CSV, JSON or Parquet for programs.

CSV, JSON and Parquet are written batch by batch, so that a result may be larger than memory. CSV: nulls are empty,
texts are quoted, lists and structures are JSON. JSON: an array with one object a row; NaN and infinities are null.
A table shows the first rows, with long texts shortened; where it would be wider than the terminal, each row is a list
of its columns.
"""

import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from flows.runs import WrongUseError
from storage.files import StoreError
from storage.readonly import Reading, ReadOnlyStore, Rows

MOST_ROWS = 1000  # of a table; columns are as wide as their longest cell, so that all of it must be held
LONGEST = 120  # characters of a table's cell
LONGEST_LISTED = 1000  # characters of a value where each row is a list of its columns
_PLAN = ["explain_key", "explain_value"]  # what EXPLAIN gives: drawings, to be left as they are


def print_results(history: ReadOnlyStore, readings: Sequence[Reading], form: str, output: Path | None) -> None:
    """Run statements and write their results to `output` or the screen, as one of `FORMATS`.

    Raises StoreError; WrongUseError for several results where one is written, and for Parquet to a terminal.
    """
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise WrongUseError("Parquet is not for a terminal: give --output FILE, or a pipe")
    if len(readings) != 1 and (form != "table" or not readings):
        raise WrongUseError(f"--format {form} writes one result, and there are {len(readings)} statements")
    with _opened(output) as stream:
        for reading in readings:
            try:
                _WRITERS[form](history.stream(reading), stream)
            except (ValueError, OverflowError, pa.ArrowException) as error:
                raise StoreError(
                    f"A value cannot be written as {form} ({error}): cast its column to VARCHAR."
                ) from error


def print_rows(rows: pa.Table, form: str) -> None:
    """Write rows that are all there to the screen. Raises WrongUseError for Parquet to a terminal."""
    if form == "parquet" and sys.stdout.isatty():
        raise WrongUseError("Parquet is not for a terminal: give a pipe")
    with _opened(None) as stream:
        _WRITERS[form](Rows(rows.schema, iter(rows.to_batches())), stream)


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    """The screen, or a file that stands under its name only when all of it is written."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(output)
    except OSError as error:
        raise WrongUseError(f"{output} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_csv(rows: Rows, stream: IO[bytes]) -> None:
    plain = pa.schema([pa.field(f.name, f.type if _is_plain(f.type) else pa.string()) for f in rows.schema])
    with pyarrow.csv.CSVWriter(stream, plain) as writer:
        for batch in rows.batches:
            columns = [
                column if _is_plain(column.type) else pa.array(map(_text, column.to_pylist()), pa.string())
                for column in batch.columns
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=plain))


def _write_json(rows: Rows, stream: IO[bytes]) -> None:
    names = rows.schema.names
    if len(set(names)) < len(names):
        raise WrongUseError(f"two columns have one name ({', '.join(names)}): name them apart with AS")
    separator = b"[\n"
    for batch in rows.batches:
        for values in _values(batch):
            stream.write(separator + _json(dict(zip(names, values, strict=True))).encode())
            separator = b",\n"
    stream.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def _write_parquet(rows: Rows, stream: IO[bytes]) -> None:
    with pq.ParquetWriter(stream, rows.schema, compression="zstd") as writer:
        for batch in rows.batches:
            writer.write_batch(batch)


def _write_table(rows: Rows, stream: IO[bytes]) -> None:
    names = rows.schema.names
    found = list(islice((values for batch in rows.batches for values in _values(batch)), MOST_ROWS + 1))
    shown = found[:MOST_ROWS]
    text = io.TextIOWrapper(stream, encoding="utf-8", write_through=True)
    console = Console(file=text, highlight=False, width=None if stream.isatty() else 10_000)
    if names == _PLAN:
        text.writelines(f"{plan}\n" for _, plan in shown)
    else:
        console.print(_table(names, shown, console.width))
        more = f"the first {MOST_ROWS:,} rows of more: add LIMIT, or write all of them with --format csv"
        console.print(f"{len(shown)} rows" if len(found) <= MOST_ROWS else more)
    text.detach()


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> RenderableType:
    """A table of the rows, or where that is wider than `width`, a list of its columns for each row."""
    cells = [[_shortened(value, LONGEST) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 <= width:
        table = Table(*[Column(Text(name)) for name in names])
        for row in cells:
            table.add_row(*map(Text, row))
        return table
    lists: list[RenderableType] = []
    for number, values in enumerate(rows, start=1):
        listed = Table.grid(padding=(0, 2))
        for name, value in zip(names, values, strict=True):
            listed.add_row(Text(name, style="bold"), Text(_shortened(value, LONGEST_LISTED)))
        lists += [Rule(f"row {number}", align="left", characters="-"), listed]
    return Group(*lists)


def _values(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch as Python values. Columns may have the same name."""
    return zip(*[column.to_pylist() for column in batch.columns], strict=True)


def _shortened(value: Any, longest: int) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", "↵")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a type is written to CSV as it is; the others become JSON."""
    types = pa.types
    return not (types.is_nested(kind) or types.is_dictionary(kind) or types.is_binary(kind) or types.is_interval(kind))


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """A value as JSON has it: strict, without NaN, with whole decimals (DuckDB's sums) as integers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _text(value: Any) -> str | None:
    """What CSV holds of a value that is not plain."""
    plain = _plain(value)
    return plain if plain is None or isinstance(plain, str) else _json(plain)


_WRITERS = {"table": _write_table, "csv": _write_csv, "json": _write_json, "parquet": _write_parquet}
FORMATS = tuple(_WRITERS)
