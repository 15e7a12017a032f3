"""Estimators of the divergence KL(pi || pi_ref) from tokens that were sampled.

Source: J. Schulman, "Approximating KL Divergence" (2020), http://joschu.net/blog/kl-approx.html; what their gradients
are in a loss: arXiv 2506.09477.
"""

from torch import Tensor

from srpo_core.policy.losses.ratio import log_ratio
from srpo_core.settings.update import KlEstimator


def kl_estimates(estimator: KlEstimator, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """One estimate a token, float (T,), with a gradient by `logprobs`; with d = log pi - log pi_ref:

    k1: d; unbiased, may be negative. k2: d**2 / 2; biased, of little variance. k3: exp(-d) - 1 + d; unbiased and never
    negative. logprobs, reference_logprobs float (T,).
    """
    difference = log_ratio(logprobs, reference_logprobs)
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return (-difference).exp() - 1 + difference


def kl_losses(estimator: KlEstimator, logprobs: Tensor, old_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """What each token adds to the loss, float (T,): its estimate, and for k1 the estimate times pi / pi_old.

    On-policy the expected gradient of k2 is that of KL(pi || pi_ref), and that of k3 is that of KL(pi_ref || pi), which
    is GRPO's term (arXiv 2402.03300). k1 alone would have none: its gradient is the score, whose mean is 0. With
    the ratio it is that of KL(pi || pi_ref), off-policy too.
    """
    estimates = kl_estimates(estimator, logprobs, reference_logprobs)
    return estimates * log_ratio(logprobs, old_logprobs).exp() if estimator == "k1" else estimates
