"""Run the command; once it learns from its second step, send this process Ctrl-C and never end that step.

python held_run.py SRPO-ARGUMENTS...
"""

import os
import signal
import sys
import threading
from typing import Any

from flows.cli import main
from flows.prefect_server import quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

import flows.update

steps = iter(range(1, 1_000_000))
original = flows.update.publish_row


def publish_row(*arguments: Any, **options: Any) -> None:
    """Interrupt and stay, at the second step."""
    if next(steps) == 2:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait()
    original(*arguments, **options)


flows.update.publish_row = publish_row
sys.argv = ["srpo", *sys.argv[1:]]
main()
