"""The prompt of `srpo sql`: statements over several lines, and commands that begin with a dot.

The lines are edited, and remembered from one time to the next, by Python's readline where it is built in.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import typer

from flows.results import print_results
from flows.runs import WrongUseError
from storage.files import StoreError
from storage.readonly import ReadOnlyStore

REMEMBERED = 2000  # lines
HELP = """\
Write a statement that reads, over as many lines as you like, and end it with ';'.
.tables          the tables, views and macros, and what each gives
.schema NAME     the columns of one, or the parameters of a macro
.help            this
.quit            leave, as Ctrl-D does; Ctrl-C gives up a statement, or a query that runs"""


def ask(history: ReadOnlyStore, form: str) -> None:
    """Ask for statements and print their results as `form`, until `.quit` or the end of the input."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else it would give up a statement, as Ctrl-C does
    typer.echo("The history, for reading. `.help` explains, `.quit` leaves.")
    text = ""
    with _remembered_lines():
        while text != ".quit":
            try:
                text += input("  ...> " if text else "srpo> ")
                text = _done(history, text, form)
            except EOFError:
                typer.echo()
                return
            except KeyboardInterrupt:
                typer.echo("\ngiven up")
                text = ""


def _done(history: ReadOnlyStore, text: str, form: str) -> str:
    """Do what has been written so far if it is complete; returns what is still to be gone on with."""
    if text.startswith("."):
        if text.split() != [".quit"]:
            _told(lambda: _obey(history, text.split()))
            return ""
        return ".quit"
    if is_complete(text):
        _told(lambda: print_results(history, history.check(text), form, None))
        return ""
    return f"{text}\n" if text.strip() else ""


def is_complete(text: str) -> bool:
    """Whether a text ends with the ';' of a statement, and not of a text or a comment, as DuckDB's lexer reads it."""
    tokens = [(at, kind) for at, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    return bool(tokens) and text.encode()[tokens[-1][0] :].startswith(b";")


def _obey(history: ReadOnlyStore, command: list[str]) -> None:
    """Do what a dot command says. Raises WrongUseError."""
    match command:
        case [".help"]:
            typer.echo(HELP)
        case [".tables"]:
            _show(history, _TABLES)
        case [".schema", name]:
            _show(history, _SCHEMA, name.rstrip(";"))
        case _:
            raise WrongUseError(f"{' '.join(command)} is no command; `.help` lists them")


_TABLES = """
SELECT name, comment AS gives FROM (
    SELECT view_name AS name, comment, 1 AS place FROM duckdb_views() WHERE NOT internal
    UNION ALL
    SELECT function_name || '(' || array_to_string(parameters, ', ') || ')', comment, 2
    FROM duckdb_functions() WHERE NOT internal
) ORDER BY place, name"""
_SCHEMA = """
SELECT column_name AS name, data_type AS type, comment AS gives FROM duckdb_columns()
WHERE table_name = $1 AND NOT internal
UNION ALL
SELECT function_name || '(' || array_to_string(parameters, ', ') || ')', 'macro', comment FROM duckdb_functions()
WHERE function_name = $1 AND NOT internal"""


def _show(history: ReadOnlyStore, query: str, *parameters: str) -> None:
    rows = history.query(query, parameters).to_pylist()
    if not rows:
        raise WrongUseError(f"there is no {parameters[0]}; `.tables` lists what there is")
    wide = max(len(row["name"]) for row in rows)
    for row in rows:
        kind = f"{row['type']:<10}  " if "type" in row else ""
        typer.echo(f"{row['name']:<{wide}}  {kind}{row['gives'] or ''}")


def _told(work: Callable[[], None]) -> None:
    """Do something, and tell what went wrong; the prompt goes on."""
    try:
        work()
    except (StoreError, WrongUseError) as error:
        typer.echo(f"srpo: {error}", err=True)


@contextlib.contextmanager
def _remembered_lines() -> Iterator[None]:
    """Line editing with the lines of earlier times, where Python has readline; without it, plain lines."""
    try:
        import readline
    except ImportError:
        yield
        return
    kept = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "srpo" / "sql_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(kept)
    readline.set_history_length(REMEMBERED)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a home that cannot be written to keeps no lines
            kept.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(kept)
