"""The processes that make an update together: which micro-batches are whose, and sums over all of them.

A single process runs the same code: every micro-batch is its own, and a sum is what it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranks:
    """This process's number among those that make an update together, and how many they are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes, float64, the same bits in every one."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def maxima(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes; NaN where one has NaN."""
        if self.size == 1:
            return list(values)
        poisoned = self.sums([float(np.isnan(value)) for value in values])
        largest = self._reduced([-np.inf if np.isnan(value) else value for value in values], dist.ReduceOp.MAX)
        return [float("nan") if bad else value for bad, value in zip(poisoned, largest, strict=True)]

    def wait(self) -> None:
        """Return when every process has come here."""
        self.sums([0.0])

    def _reduced(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        # On the CPU: the group has a gloo side beside the GPUs', and a handful of figures gain nothing from NCCL.
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        return [float(value) for value in tensor]


ALONE = Ranks()
"""A process that makes its updates by itself."""


def share_of(parts: Sequence[Rows], ranks: Ranks) -> tuple[list[Rows], int]:
    """This process's micro-batches of `parts`, and how many empty ones follow so that every process makes as many.

    Parts are dealt out in turn, so that the n-th of each process are alike when neighbours are. A sharded model is put
    together for every micro-batch by all processes at once: one that has made its last must go on with empty ones
    until the others have, or they would wait for ever.
    """
    rounds = -(-len(parts) // ranks.size)
    mine = list(parts[ranks.rank :: ranks.size])
    return mine, rounds - len(mine)
