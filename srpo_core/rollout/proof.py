"""Whether a server computes with the weights it was given: its answers to the probe against the trainer's.

Measured on the probe of SmolLM2-135M: an update at learning rate 1e-6 moves it by 0.01 nats (rms; 0.03 to 0.08 at
most), and rounding to bfloat16 by 0.1 (0.6 at most). Between vLLM's CPU server and transformers, both in float32, a
tiny Llama differed by 3e-6 at most. So in float32 a tolerance of 1e-3 catches such an update by itself. In bfloat16 it
must be about 1.5; then an older version than the last, or a part of the weights that stays behind, shows only when the
updates between moved more than rounding does. A server that did not reload at all shows in any dtype.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logprobs = npt.NDArray[np.float32]

# A change of this size (rms, nats) over a whole probe leaves a trace in any dtype, if the server made it at all; and
# one below it is of no account.
VISIBLE_CHANGE = 1e-4
# Rounding differs between two versions by about 1.4 times the noise of one of them.
NOISE_MARGIN = 4.0
# The share of the trainer's change that a server may miss, beside the noise.
MISSED_SHARE = 0.1


@dataclass(frozen=True)
class Answer:
    """One server's answer to the probe of a version: `served` and the trainer's `expected`, float32 (S, L - 1)."""

    served: Logprobs
    expected: Logprobs


def objection(answer: Answer, previous: Answer | None, tolerance: float) -> str | None:
    """What speaks against the answer, or None.

    Three things must hold: no log-probability is further than `tolerance` (nats) from the trainer's; since the version
    before (`previous`, the same server's) the server's answers changed as the trainer's did, beside rounding; and they
    changed at all, when the trainer's did. The first is blind to an update that moves less than the tolerance, which
    must be wide where the server rounds to bfloat16.
    """
    difference = float(np.abs(answer.served - answer.expected).max())
    if not difference <= tolerance:  # NaN is no agreement
        return f"its log-probabilities differ from the trainer's by up to {difference:.2g}, more than {tolerance:.2g}"
    if previous is None or previous.served.shape != answer.served.shape:
        return None
    moved = answer.expected - previous.expected
    followed = answer.served - previous.served
    if _rms(moved) > VISIBLE_CHANGE and not followed.any():
        return f"its answers are those of the version before, where the trainer's moved by {_rms(moved):.2g} (rms)"
    missed = _rms(followed - moved)
    noise = _rms(previous.served - previous.expected)
    if missed > max(NOISE_MARGIN * noise, MISSED_SHARE * _rms(moved), VISIBLE_CHANGE):
        return (
            f"since the version before, the trainer's log-probabilities moved by {_rms(moved):.2g} (rms) and the "
            f"server's missed {missed:.2g} of it, where rounding explains {noise:.2g} "
            f"(the largest difference is {difference:.2g}, within the tolerance of {tolerance:.2g})"
        )
    return None


def _rms(values: Logprobs) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
