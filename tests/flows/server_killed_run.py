"""Run the command, and kill the vLLM server of the run with SIGKILL when its second policy version is published.

    python server_killed_run.py MARK SRPO-ARGUMENTS...

MARK names the server's processes, see tests/vllm_environment.py.
"""

import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # as pytest has them: tests/storage must not be found as `storage`

from vllm_environment import kill_server

from flows.cli import main
from flows.prefect_server import quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

import flows.update

MARK = sys.argv[1]
steps = iter(range(1, 1_000_000))
original = flows.update.publish_row


def publish_row(*arguments: Any, **options: Any) -> None:
    """Kill, then go on as the real one."""
    if next(steps) == 2:
        kill_server(MARK)
    original(*arguments, **options)


flows.update.publish_row = publish_row
sys.argv = ["srpo", *sys.argv[2:]]
main()
