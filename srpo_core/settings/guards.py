"""When a run stops by itself, before the disk is full or the budget spent."""

from typing import Annotated

from pydantic import Field

from srpo_core.settings.section import MayChange, PositiveInt, Section


class GuardSettings(Section):
    """Limits, looked at before each step: a run that is beyond one stops there, and goes on once it is raised."""

    min_free_gb: Annotated[float, Field(ge=0), MayChange.ALIKE] = 0.0
    """Least space that must be free in the store, in GB (10^9 bytes); 0: not looked at. Of a history in a bucket it is
    not known."""
    max_tokens: Annotated[PositiveInt | None, MayChange.ALIKE] = None
    """Tokens that may be sampled for training, those that dynamic sampling discards included; null: any number."""
    max_hours: Annotated[Annotated[float, Field(gt=0)] | None, MayChange.ALIKE] = None
    """Hours that all attempts together may work on what they commit: sampling, updates, evaluations. Work that goes on
    at the same time counts once; null: any number."""
