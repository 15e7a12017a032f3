"""How long each training stage lasts."""

from typing import Annotated

from pydantic import Field

from srpo_core.settings.section import MayChange, PositiveInt, Section


class StageSettings(Section):
    """Limits of one training stage."""

    max_steps: Annotated[PositiveInt, MayChange.AHEAD]
    """The stage ends with the epoch in which this many steps are reached."""


class TransitionSettings(Section):
    """When stage 1 has taught what it can."""

    window: Annotated[int, Field(ge=2), MayChange.AHEAD] = 40
    """Steps over which the slope of the math accuracy is fitted."""
    min_gain: Annotated[float, Field(ge=0), MayChange.AHEAD] = 0.01
    """The accuracy is flat when its fitted gain over the window is below this."""


class StagesSettings(Section):
    """The two stages of SRPO."""

    math: StageSettings = StageSettings(max_steps=100)
    """Stage 1: math only."""
    math_and_code: StageSettings = StageSettings(max_steps=100)
    """Stage 2: all code prompts and the math prompts that stage 1 kept."""
    transition: TransitionSettings = TransitionSettings()
    """When stage 2 begins before stage 1 has reached its limit."""
