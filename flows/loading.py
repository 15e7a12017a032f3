"""Which policy is sampled from: a version of the run, from memory where the update has it there, or as published."""

from functools import partial
from typing import TYPE_CHECKING

from flows.plan import EpochPlan
from flows.policies import checked_policy, is_published
from flows.runs import Run
from flows.together import present_handover, wait_until

if TYPE_CHECKING:  # takes torch, which the orchestrator and the worker do not need
    from flows.sampler import Sampler


def wait_for_version(sampler: "Sampler", run: Run, plan: EpochPlan, version: int) -> None:
    """Return once `load_version` need not wait. Raises StageStoppedError when the company stops."""
    handover = present_handover()

    def is_there() -> bool:
        return (sampler.takes_weights and handover.offers(version)) or is_published(run, plan, version)

    wait_until(is_there)


def load_version(sampler: "Sampler", run: Run, plan: EpochPlan, version: int) -> None:
    """Sample from a version that the epoch starts from or makes, which may have to be awaited.

    Weights may come from memory: what is sampled from them is published after `wait_until_published`.
    """
    with present_handover().weights(version) as weights:
        if weights is not None and sampler.take(run.policy(version), weights):
            return
    wait_until_published(run, plan, version)
    sampler.load(checked_policy(run, version))


def wait_until_published(run: Run, plan: EpochPlan, version: int) -> None:
    """Return once the version is published. Raises StageStoppedError when the company stops."""
    wait_until(partial(is_published, run, plan, version))
