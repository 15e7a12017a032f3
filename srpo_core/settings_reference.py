"""The settings explained, made from their own types, bounds and docstrings."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo

from srpo_core.config import Settings
from srpo_core.settings.differences import may_change

_HEADER = """\
# Settings

Every setting of a run, made by `srpo settings` from the settings' own docstrings. A settings file is YAML with these
sections; `--set section.field=value` changes one field. Unknown or contradictory settings are refused.

Whether a run that has begun may go on with another value ([resume.md](resume.md) tells how) stands under *later*: `no`;
`yes`, it then gives the same policies and rows, bit for bit; `rounding`, the same but for rounding; `ahead`, as long as
all that was decided by it so far would have been decided alike.

| setting | type | default | later | what it does |
|---|---|---|---|---|
"""


def settings_reference() -> str:
    """All settings as a Markdown table."""
    return _HEADER + "".join(_rows(Settings, ""))


def sections_of(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The sections that a field may hold, itself or as a list's elements: by tag if there are several, else by ""."""
    annotation = field.annotation
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    sections = {}
    for member in members:
        kind, *extra = get_args(member) if get_origin(member) is Annotated else (member,)
        element = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if isinstance(element, type) and issubclass(element, BaseModel):
            sections[next((each.tag for each in extra if isinstance(each, Tag)), "")] = element
    return sections


def _rows(section: type[BaseModel], prefix: str, condition: str = "") -> Iterator[str]:
    schema = section.model_json_schema()
    listed: dict[type[BaseModel], str] = {}
    for name, field in section.model_fields.items():
        place, sections = f"{prefix}{name}", sections_of(field)
        is_list = get_origin(field.annotation) is tuple
        if not sections or is_list:
            default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
            what = " ".join((field.description or "").split())
            allowed = _allowed(schema["properties"][name]) if not sections else "list of sections"
            mark = may_change(field.metadata)
            later = "no" if mark is None else mark.value
            yield f"| `{place}`{condition} | {allowed} | {default} | {later} | {what} |\n"
        for tag, inner in sections.items():
            if inner in listed:
                yield f"| `{place}[]…`{condition} | | | | As `{listed[inner]}[]…`. |\n"
            else:
                yield from _rows(inner, f"{place}[]." if is_list else f"{place}.", f" ({tag})" if tag else condition)
                listed |= {inner: place} if is_list else {}


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    if schema["type"] == "array":
        return f"list of {_allowed(schema['items'])}"
    return ", ".join([{"object": "names by names"}.get(schema["type"], str(schema["type"])), *bounds])
