"""Which faults pass by themselves and are tried again, with pauses that grow; anything else ends the stage at once."""

import random
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import State
from prefect.exceptions import PrefectHTTPStatusError

from srpo_core.rollout.errors import EngineUnavailableError

PATIENCE_SECONDS = 600.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0

P = ParamSpec("P")
R = TypeVar("R")


def is_transient(error: BaseException) -> bool:
    """Whether an error may pass: the Prefect API is out of reach, overloaded or failed inside, or no engine answers.

    An engine may come back, and a server of our own is started anew.
    """
    return isinstance(error, EngineUnavailableError) or api_is_away(error)


def api_is_away(error: BaseException) -> bool:
    """Whether it is the Prefect API that is out of reach, overloaded or failed inside."""
    if isinstance(error, (httpx.HTTPStatusError, PrefectHTTPStatusError)):
        return error.response.status_code >= 500 or error.response.status_code in {408, 429}
    return isinstance(error, httpx.TransportError)


def may_pass(_task: object, _task_run: object, state: State[Any]) -> bool:
    """Whether a task that ended so is tried again: Prefect's `retry_condition_fn`."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


# How a step is tried again: after about 2, 4, 8 and 16 seconds, each up to twice as long.
STEP_RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay_seconds": [2, 4, 8, 16],
    "retry_jitter_factor": 1,
    "retry_condition_fn": may_pass,
}


def patiently(call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """`call(...)`, again and again while it fails for what may pass; raises its last error after ten minutes."""
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, _FIRST_PAUSE_SECONDS
    while True:
        try:
            return call(*arguments, **options)
        except Exception as error:
            wait: Any = pause * random.uniform(0.5, 1.5)  # many processes must not come back at the same moment
            if not is_transient(error) or time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
