"""The settings explained, made from their own types, bounds and docstrings."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from srpo_core.config import Settings

_HEADER = """\
# Settings

Every setting of a run, made by `srpo settings` from the settings' own docstrings. A settings file is YAML with these
sections; `--set section.field=value` changes one field. Unknown or contradictory settings are refused.

| setting | type | default | what it does |
|---|---|---|---|
"""


def settings_reference() -> str:
    """All settings as a Markdown table."""
    return _HEADER + "".join(_rows(Settings, ""))


def _rows(section: type[BaseModel], prefix: str) -> Iterator[str]:
    schema = section.model_json_schema()
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _rows(annotation, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        what = " ".join((field.description or "").split())
        yield f"| `{prefix}{name}` | {_allowed(schema['properties'][name])} | {default} | {what} |\n"


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return ", ".join([str(schema["type"]), *bounds])
