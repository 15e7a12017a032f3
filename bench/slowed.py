"""Engines slowed by known amounts: sampling and learning that take as long as they are told, in this process.

The product has no setting for this. Here the two methods in which the time of a run goes, `Sampler.sample` for rollouts
and `Trainer.update`, do their real work on the real, tiny model and then wait until the time is full, as they would for
a GPU: the wait holds neither a core nor Python's lock. Everything else of a step is as it always is.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from flows.metrics import Stopwatch
from flows.sampler import Sampler
from srpo_core.policy.trainer import Trainer


@dataclass
class Slowed:
    """How long a step's sampling and its learning take, in seconds, and the longest that their real work took."""

    rollout: float
    update: float
    longest_rollout: float = 0.0
    longest_update: float = 0.0


@contextmanager
def slowed(rollout: float, update: float) -> Iterator[Slowed]:
    """In the block, the sampling of a step of one shard takes `rollout` seconds, and its learning `update`."""
    told = Slowed(rollout, update)
    sample, learn = Sampler.sample, Trainer.update

    def slow_sample(self: Sampler, *arguments: Any, kind: str, **options: Any) -> Any:
        if kind != "generate":  # an evaluation
            return sample(self, *arguments, kind=kind, **options)
        start = time.perf_counter()
        graded = sample(self, *arguments, kind=kind, **options)
        told.longest_rollout = max(told.longest_rollout, time.perf_counter() - start)
        stopwatch = next(argument for argument in arguments if isinstance(argument, Stopwatch))
        with stopwatch.measure(kind):
            _wait_until(start + rollout)
        return graded

    def slow_update(self: Trainer, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        metrics = learn(self, *arguments, **options)
        told.longest_update = max(told.longest_update, time.perf_counter() - start)
        _wait_until(start + update)
        return metrics

    with patch.object(Sampler, "sample", slow_sample), patch.object(Trainer, "update", slow_update):
        yield told


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
