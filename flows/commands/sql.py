"""`srpo sql`: the history, asked by people."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import FAILED, STORE, StoreOption, fail, told_errors
from flows.runs import WrongUseError, open_history


def sql(
    target: Annotated[
        str,
        typer.Argument(metavar="STORE", help="A run's name in the store, a directory of one run or many, or a URL."),
    ],
    query: Annotated[
        str | None,
        typer.Argument(metavar="[QUERY]", help='What to ask, such as "FROM step_stats". [default: a prompt]'),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the statements from a file.")] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, json or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead of to the screen.")] = None,
    store: StoreOption = STORE,
) -> None:
    """Ask the history anything, reading only. Without a query, a prompt; from a pipe, the statements in it.

    `SHOW TABLES` lists the views; `DESCRIBE rollouts` tells the columns of one.
    """
    with told_errors(), _quiet_ends():
        from flows import prompt, results
        from storage.readonly import open_readonly

        if form not in results.FORMATS:
            raise WrongUseError(f"--format {form}: choose one of {', '.join(results.FORMATS)}")
        if query is not None and file is not None:
            raise WrongUseError("give a query or --file, not both")
        place = open_history(store, target)
        if output is not None and output.resolve().is_relative_to(place.root):
            raise WrongUseError(f"--output {output} lies in the store, which is only read: write somewhere else")
        text = _read(file) if file else query
        if text is None and not sys.stdin.isatty():
            text = sys.stdin.read()
        with open_readonly(place) as history:
            if text is not None:
                results.print_results(history, history.check(text), form, output)
            elif output is not None:
                raise WrongUseError("--output takes the rows of one query: give it, or --file")
            else:
                prompt.ask(history, form)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUseError(f"{file} cannot be read as text: {error}") from error


@contextmanager
def _quiet_ends() -> Iterator[None]:
    """A reader that has seen enough (`| head`) and Ctrl-C end a query without a trace."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to be flushed goes nowhere
    except KeyboardInterrupt:
        fail("the query was interrupted", FAILED)
