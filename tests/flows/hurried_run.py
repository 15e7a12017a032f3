"""Run the command with progress artifacts at every report, not only for work that lasts.

python hurried_run.py SRPO-ARGUMENTS...
"""

from flows.cli import main
from flows.prefect_server import quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

import flows.progress

flows.progress.ARTIFACT_SECONDS = 0.0
main()
