"""The rollouts of one step, as the update needs them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RolloutBatch:
    """N rollouts of one step; ragged fields are one array per rollout.

    prompts, completions: int32 token ids; logprobs: float32, the sampler's, one per completion token;
    rewards: float64 (N,), NaN where ungraded; groups: int64 (N,), equal within a prompt; truncated: bool (N,).
    """

    prompts: Sequence[Ids]
    completions: Sequence[Ids]
    logprobs: Sequence[npt.NDArray[np.float32]]
    rewards: npt.NDArray[np.float64]
    groups: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        sizes = {len(column) for column in (self.prompts, self.completions, self.logprobs, self.groups, self.truncated)}
        if sizes != {len(self.rewards)}:
            raise ValueError(f"a batch needs one entry per rollout in every column, got lengths {sorted(sizes)}")

    @property
    def completion_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each completion, int64 (N,)."""
        return np.array([len(completion) for completion in self.completions], dtype=np.int64)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each prompt and its completion, int64 (N,)."""
        return self.completion_lengths + np.array([len(prompt) for prompt in self.prompts], dtype=np.int64)
