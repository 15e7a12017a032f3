"""`srpo deploy`: telling a Prefect server of the deployments."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import STORE, StoreOption, told_errors
from flows.prefect_server import require_api


def deploy(
    store: StoreOption = STORE,
    file: Annotated[
        Path | None, typer.Option("--prefect-file", help="File to apply. [default: prefect.yaml of the source]")
    ] = None,
) -> None:
    """Make the work pools, deployments and automations of prefect.yaml on the server that PREFECT_API_URL names.

    Doing it again changes nothing but what was changed in the file.
    """
    with told_errors():
        require_api()

        from flows.deploy import deploy as apply
        from flows.prefect_file import PREFECT_FILE

        for line in apply(file or PREFECT_FILE, store):
            typer.echo(line)
