"""`srpo doctor`: what this machine can do, and what it lacks."""

from typing import Annotated

import typer
from rich.table import Table

from flows.commands.common import FAILED, STORE, StoreOption, told_errors


def doctor(
    store: StoreOption = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tell what this machine can do: Python, torch, devices, sandbox, Prefect, vLLM, disk.

    The exit status is 1 when something is missing that the default configuration needs.
    """
    with told_errors():
        from flows import terminal
        from flows.doctor import examine

        findings = list(examine(store))
        if as_json:
            terminal.print_json([vars(finding) for finding in findings])
        else:
            table = Table("", "what", "found", "to provide it")
            for finding in findings:
                mark = "yes" if finding.found else "MISSING" if finding.needed else "no"
                table.add_row(mark, finding.name, finding.detail, finding.remedy)
            terminal.console.print(table)
        if not all(finding.found for finding in findings if finding.needed):
            raise typer.Exit(FAILED)
