"""`srpo sql`: the history, asked by people."""

from typing import Annotated

import typer

from flows.commands.common import STORE, StoreOption, told_errors
from flows.runs import WrongUseError, open_history


def sql(
    target: Annotated[
        str, typer.Argument(metavar="RUN", help="A run of the store, or a directory or URL of one or many.")
    ],
    query: Annotated[str, typer.Argument(help='One statement that reads, such as "FROM step_stats".')],
    store: StoreOption = STORE,
    output: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Ask the history anything. `SHOW TABLES` lists the views; `DESCRIBE rollouts` tells the columns of one."""
    with told_errors():
        from flows import terminal
        from storage.readonly import open_readonly

        if output not in terminal.FORMATS:
            raise WrongUseError(f"--format {output}: choose one of {', '.join(terminal.FORMATS)}")
        with open_readonly(open_history(store, target)) as history:
            terminal.print_rows(history.query(query), output)
