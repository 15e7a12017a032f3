"""Which rollouts share a micro-batch."""

import numpy as np
import numpy.typing as npt


def length_buckets(lengths: npt.NDArray[np.int64], token_budget: int) -> list[npt.NDArray[np.int64]]:
    """Places 0..N-1 in micro-batches of similar length, each at most `token_budget` tokens when padded.

    lengths int64 (N,): prompt and completion tokens. A row longer than the budget gets a micro-batch of its own.
    Equal lengths keep their order, so that the same batch is always packed the same way.
    """
    order = np.argsort(lengths, kind="stable")
    buckets: list[npt.NDArray[np.int64]] = []
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > token_budget:
            buckets.append(order[start:end])
            start = end
    return buckets
