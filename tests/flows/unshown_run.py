"""A flow that shows what the API does not take, since none is there; says whether it went on, and how it ended.

python unshown_run.py STORE RUN
"""

import sys
from pathlib import Path

from flows.prefect_server import prefect_api, quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.artifacts import ProgressSeries, publish_text, wait_until_sent
from flows.runs import open_run


@flow
def unshown() -> None:
    """Show, and go on."""
    run = open_run(Path(sys.argv[1]), sys.argv[2])
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        publish_text(run, "unshown", "text", "nobody sees it")
        ProgressSeries(run.name, "unshown").show(50, "nor this")
        wait_until_sent()
    print("went on")


with prefect_api():
    print(unshown(return_state=True).name)
