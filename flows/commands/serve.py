"""`srpo serve`: a Prefect server, the deployments and the workers, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import STORE, StoreOption, told_errors
from flows.prefect_server import server_authentication

LOOPBACK = "127.0.0.1"


def serve(
    store: StoreOption = STORE,
    host: Annotated[
        str, typer.Option(help="This machine's address for the API and the UI; by default nobody else reaches it.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for the API and the UI.")] = 4200,
    file: Annotated[
        Path | None, typer.Option("--prefect-file", help="File to apply. [default: prefect.yaml of the source]")
    ] = None,
) -> None:
    """Serve runs on this machine until Ctrl-C: a Prefect server with its UI, and a worker for each pool."""
    with told_errors():
        from flows.prefect_file import PREFECT_FILE
        from flows.serve import served

        if host != LOOPBACK and server_authentication() is None:
            typer.echo(
                f"warning: whoever reaches {host} may start runs, and so programs as this user. Set "
                "PREFECT_SERVER_API_AUTH_STRING, see docs/operations.md",
                err=True,
            )
        with served(file or PREFECT_FILE, store, host, port) as serving:
            typer.echo(f"the UI is at {serving.url}; start runs there, or with")
            typer.echo(f"    PREFECT_API_URL={serving.url}/api srpo run SETTINGS --mode deployments --store {store}")
            for pool in serving.pools:
                limit = pool["concurrency_limit"]
                typer.echo(f"a worker takes from pool {pool['name']}, {limit or 'any number'} at a time")
            typer.echo(f"logs are in {serving.logs}")
            typer.echo("Ctrl-C ends the server, the workers and their stages; runs can be resumed")
            try:
                serving.wait_for_an_end()
            except KeyboardInterrupt:
                typer.echo("ending, which takes up to half a minute")
