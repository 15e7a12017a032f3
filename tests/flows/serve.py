"""Start a Prefect server as the command does, print its URL, and serve until the standard input ends."""

import sys

from flows.prefect_server import prefect_api, quiet_prefect

quiet_prefect()
with prefect_api():
    from prefect.settings import PREFECT_API_URL

    print(PREFECT_API_URL.value(), flush=True)
    sys.stdin.read()
