"""A flow with the rollout step's own retries, whose task fails as its argument says; prints how often it was tried."""

import sys
from typing import NoReturn

from flows.prefect_server import prefect_api, quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

from prefect import flow, task

from flows.faults import STEP_RETRIES
from srpo_core.rollout.errors import EngineUnavailableError, StaleWeightsError

ERRORS = {"lost": EngineUnavailableError, "stale": StaleWeightsError}
tries = 0


@task(**STEP_RETRIES | {"retry_delay_seconds": [0.0], "retry_jitter_factor": None})
def sampling(error: type[Exception]) -> NoReturn:
    """Fail."""
    global tries  # noqa: PLW0603
    tries += 1
    raise error("said so")


@flow
def stage(error: type[Exception]) -> None:
    """The task alone."""
    sampling(error)


with prefect_api():
    try:
        stage(ERRORS[sys.argv[1]])
    except tuple(ERRORS.values()) as raised:
        print(tries, type(raised).__name__)
