"""Measured values of a piece of work, timed and published as rows of the metrics table."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flows.runs import Run


class Stopwatch:
    """Seconds by kind of work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Add the time of the block to `timing_s/<kind>`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            name = f"timing_s/{kind}"
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def publish_metrics(
    run: Run,
    kind: str,
    values: Mapping[str, float],
    *,
    stage: int,
    epoch: int,
    step: int,
    policy_version: int,
    file: str | None = None,
) -> None:
    """Record `values` of one piece of work under the name `file`, the kind's by default; an earlier attempt's stand."""
    name, rows = metric_rows(kind, values, step=step, policy_version=policy_version, file=file)
    run.history.publish("metrics", rows, stage=stage, epoch=epoch, name=name)


def metric_rows(
    kind: str, values: Mapping[str, float], *, step: int, policy_version: int, file: str | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """The name and the rows under which `values` of one piece of work are published."""
    return f"{file or kind}-{step:06d}", [
        {"step": step, "policy_version": policy_version, "kind": kind, "name": name, "value": float(value)}
        for name, value in values.items()
    ]
