"""What every section of the settings has in common."""

from enum import Enum
from typing import Annotated, Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from srpo_core.settings.secrets import in_url

PositiveInt = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class MayChange(Enum):
    """Marks a setting that a run may go on with another value of. One without a mark may not change: rows would differ.

    A run that went on so must be one that could have begun so.
    """

    ALIKE = "yes"
    """The same policies and the same rows, bit for bit."""
    ROUNDED = "rounding"
    """The same but for rounding: another order of sums, and so, after some steps, other samples."""
    AHEAD = "ahead"
    """For what is ahead: as long as all that was decided by the setting so far would have been decided alike."""


class Section(BaseModel):
    """Settings that belong together: no unknown fields, no NaN, no credentials, and never changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_credentials(cls, value: Any, info: ValidationInfo) -> Any:
        of_section = (
            isinstance(value, dict) and get_origin(cls.model_fields[str(info.field_name)].annotation) is not dict
        )
        if not of_section and in_url(value):
            raise ValueError(
                "holds a user or a password in a URL: settings are kept with the run and shown to everybody. "
                "Credentials come from the environment alone, see docs/operations.md"
            )
        return value
