"""How completions are sampled."""

from typing import Annotated

from pydantic import Field

from srpo_core.settings.section import MayChange, PositiveInt, Section


class RolloutSettings(Section):
    """Sampling of completions."""

    prompts_per_step: PositiveInt = 32
    """Prompts of one step, at most; the prompts of an epoch are spread evenly over its steps."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions per prompt, G. The advantage compares them, so one alone would never learn."""
    max_new_tokens: PositiveInt = 64
    """Longest completion, in tokens; a longer one is cut there and counted as truncated."""
    temperature: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Divides the logits, in sampling and in the update alike."""
    batch_rows: Annotated[PositiveInt, MayChange.ROUNDED] = 1024
    """Completions decoded together, at most; bounds the memory of keys and values."""
    groups_per_shard: PositiveInt = 64
    """Groups (prompts) in one file of the history."""
    max_staleness: Annotated[int, Field(ge=0, le=8)] = 0
    """Policy versions by which a rollout may lag behind the update that uses it. 0 is strictly on-policy; with k,
    step n is sampled by the version that step n-k produced, so that sampling and updating overlap."""
    dynamic_sampling_rounds: Annotated[int, Field(ge=0, le=100)] = 0
    """DAPO's dynamic sampling: groups of equal accuracy are set aside, and the step is refilled with further prompts
    of the epoch until `prompts_per_step` groups are left or this many rounds were sampled. 0: off."""
