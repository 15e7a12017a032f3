"""What a flow run and a task run cost that do nothing, on a Prefect server of their own: JSON, seconds each.

Run as a process of its own: `python -m bench.empty_flows`.
"""

import json
import statistics
import time
from collections.abc import Callable

from flows.prefect_server import prefect_api, quiet_prefect

RUNS = 15


def main() -> None:
    """Measure inside a flow run, as a run's stages are."""
    quiet_prefect()
    with prefect_api():
        from prefect import flow, task
        from prefect.cache_policies import NO_CACHE
        from prefect.context import TagsContext

        from flows.execution import tags

        @flow(name="stage", flow_run_name="{run} · stage")
        def stage(run: str) -> None:
            pass

        @task(name="step", task_run_name="step {step}", cache_policy=NO_CACHE)
        def step(step: int) -> None:
            pass

        @flow(name="steps")
        def steps() -> float:
            with TagsContext(current_tags=set()):
                return _median(lambda: step(0))

        @flow(name="stages")
        def stages() -> tuple[float, float]:
            with tags("run:bench", "srpo:bench"):
                return _median(lambda: stage("bench")), steps()

        flow_run, task_run = stages()
    print(json.dumps({"flow_run": flow_run, "task_run": task_run}))


def _median(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
