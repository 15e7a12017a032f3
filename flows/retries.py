"""When a task is tried again: what may pass by itself is, and a wrong setting never."""

from typing import Any, TypedDict

from prefect import State, Task
from prefect.client.schemas.objects import TaskRun

from srpo_core.rollout.errors import EngineUnavailableError


class Retries(TypedDict):
    """The options of a Prefect task that say when it is tried again."""

    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Any


def servers_were_lost(_task: Task[..., Any], _run: TaskRun, state: State) -> bool:
    """Whether the task failed because no server answered: one may come back, and one of our own is started anew."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, EngineUnavailableError)


WHEN_SERVERS_ARE_LOST = Retries(retries=3, retry_delay_seconds=[1.0, 10.0, 60.0], retry_condition_fn=servers_were_lost)
