"""What a mean over an optimizer step's tokens weighs each of them, before they are cut into micro-batches."""

import numpy as np
import numpy.typing as npt

from srpo_core.settings.update import LossMean


def token_weights(mean: LossMean, lengths: npt.NDArray[np.int64], *, longest: int) -> npt.NDArray[np.float64]:
    """The weight of each token of a completion, float64 (N,), from the N completions' lengths int64 (N,).

    With all N rollouts of the optimizer step, graded ones with and without an advantage:
    token: 1 / sum of all lengths, every token alike. Source: arXiv 2503.14476 (DAPO), section 3.3.
    sequence: 1 / (N * the completion's length), every completion alike. Source: arXiv 2402.03300 (GRPO), equation 3.
    constant: 1 / (N * longest), with `longest` the most tokens that a completion may have. Source: arXiv 2503.20783
    (Dr. GRPO), appendix A. An empty completion has no tokens to weigh; its weight is a number all the same.
    """
    if mean == "token":
        return np.full(len(lengths), 1 / max(int(lengths.sum()), 1))
    if mean == "sequence":
        return 1 / (max(len(lengths), 1) * np.maximum(lengths, 1))
    return np.full(len(lengths), 1 / (max(len(lengths), 1) * longest))
