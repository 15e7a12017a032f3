"""Weights on their way from the update to the rollouts of the same process, ahead of their checkpoint.

The checkpoint is written and published all the same, beside the sampling: no rollout is published before the version
that sampled it (`flows.rollout`), so a kill at any moment leaves what it would leave without this.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # stages keep company in processes that have no use for torch
    from torch import Tensor

Weights = Mapping[str, "Tensor"]


class Handover:
    """The weights of one policy version, which stand still from `offer` to `withdraw`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered: tuple[int, Weights] | None = None

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
