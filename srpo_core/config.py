"""The whole run as typed settings: its sections, and what must hold between them.

Values that SRPO's public sources do not give are ours; docs/method.md tells which are known.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from srpo_core.settings.engine import EngineSettings
from srpo_core.settings.evaluation import EvaluationSettings
from srpo_core.settings.guards import GuardSettings
from srpo_core.settings.history import HistorySettings
from srpo_core.settings.policy import PolicySettings
from srpo_core.settings.problems import LabSettings, ProblemSettings
from srpo_core.settings.resampling import ResamplingSettings
from srpo_core.settings.rewards import RewardSettings, VerifierSettings
from srpo_core.settings.rollout import RolloutSettings
from srpo_core.settings.section import MayChange, PositiveInt, Section
from srpo_core.settings.stages import StagesSettings
from srpo_core.settings.update import UpdateSettings


class Settings(Section):
    """A run of SRPO."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 17
    """Every random number of the run derives from it."""
    keep_policies: Annotated[PositiveInt, MayChange.ALIKE] = 2
    """Newest policy versions kept, besides those that an epoch began or ended with."""
    keep_policies_every: Annotated[PositiveInt | None, MayChange.ALIKE] = None
    """Versions kept for ever besides: those whose number this divides."""
    policy: PolicySettings = PolicySettings()
    problems: ProblemSettings = LabSettings()
    rollout: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings()
    rewards: RewardSettings = RewardSettings()
    verifiers: VerifierSettings = VerifierSettings()
    update: UpdateSettings = UpdateSettings()
    resampling: ResamplingSettings = ResamplingSettings()
    history: HistorySettings = HistorySettings()
    stages: StagesSettings = StagesSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    guards: GuardSettings = GuardSettings()

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.update.minibatches > self.rollout.prompts_per_step:
            raise ValueError(
                f"update.minibatches ({self.update.minibatches}) must not exceed rollout.prompts_per_step "
                f"({self.rollout.prompts_per_step}): each optimizer step needs a group"
            )
        if self.rewards.overlong and self.rewards.overlong_buffer > self.rollout.max_new_tokens:
            raise ValueError(
                f"rewards.overlong_buffer ({self.rewards.overlong_buffer}) must not exceed rollout.max_new_tokens "
                f"({self.rollout.max_new_tokens}): it is the last part of that length"
            )
        if self.keep_policies <= self.rollout.max_staleness:
            raise ValueError(
                f"keep_policies ({self.keep_policies}) must exceed rollout.max_staleness "
                f"({self.rollout.max_staleness}): the version that samples must still be there"
            )
        if self.policy.device == "cpu" and self.policy.dtype == "bfloat16":
            raise ValueError(
                "policy.dtype bfloat16 needs policy.device cuda: on a CPU the rollouts would be computed less "
                "exactly than the update and no faster"
            )
        if self.engine.sleep and (self.policy.device != "cuda" or self.rollout.max_staleness):
            raise ValueError(
                "engine.sleep needs policy.device cuda and rollout.max_staleness 0: it gives a GPU's memory back while "
                "the policy is updated there, and nothing is sampled meanwhile"
            )
        return self
