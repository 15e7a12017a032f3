"""What differs between two settings, field by field, and whether a run may go on with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from srpo_core.settings.section import MayChange, Section


@dataclass(frozen=True)
class Difference:
    """A field with another value: its place, such as `update.loss`, both values as plain data, and its mark, if any."""

    place: str
    before: Any
    after: Any
    may: MayChange | None


def differences(before: Section, after: Section, prefix: str = "") -> Iterator[Difference]:
    """Every field that differs between two settings of the same kind, in the order of the settings."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    for name, field in type(before).model_fields.items():
        one, other = getattr(before, name), getattr(after, name)
        if isinstance(one, Section) and type(one) is type(other):
            yield from differences(one, other, f"{prefix}{name}.")
        elif one != other:
            yield Difference(f"{prefix}{name}", old[name], new[name], may_change(field.metadata))


def may_change(metadata: list[Any]) -> MayChange | None:
    """A field's mark; None: a run that began with one value cannot go on with another."""
    return next((each for each in metadata if isinstance(each, MayChange)), None)
