"""What stages of the same process hand over in memory, ahead of its publication: weights, and a step's rollouts.

All of it is published all the same, beside the work: no rollout is published before the version that sampled it
(`flows.rollout`), no version before the rollouts that it learned from are committed (`flows.update`). So a kill at any
moment leaves what it would leave without this.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:  # stages keep company in processes that have no use for torch
    from torch import Tensor

Weights = Mapping[str, "Tensor"]


class Handover:
    """The weights of one policy version, which stand still from `offer` to `withdraw`; the newest step's rollouts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered: tuple[int, Weights] | None = None
        self._rollouts: tuple[int, pa.Table] | None = None

    def offer_rollouts(self, step: int, rows: pa.Table) -> None:
        """Let others learn from these rows: those of all shards of a step of the epoch, which are published."""
        self._rollouts = step, rows

    def rollouts(self, step: int) -> pa.Table | None:
        """The rows of a step of the epoch as `RunHistory.read_step` gives them, without the key; None: not offered."""
        offered = self._rollouts
        return offered[1] if offered is not None and offered[0] == step else None

    def offer(self, version: int, weights: Weights) -> None:
        """Let others copy these weights of `version`; they are not copied here."""
        with self._lock:
            self._offered = version, weights

    def withdraw(self) -> None:
        """Offer nothing from now on: the weights are about to change. Waits for who copies them."""
        with self._lock:
            self._offered = None

    def offers(self, version: int) -> bool:
        """Whether the weights of `version` are offered now."""
        offered = self._offered
        return offered is not None and offered[0] == version

    @contextmanager
    def weights(self, version: int) -> Iterator[Weights | None]:
        """The weights of `version`, to be copied in the block; None when they are not offered."""
        with self._lock:
            yield self._offered[1] if self._offered is not None and self._offered[0] == version else None
