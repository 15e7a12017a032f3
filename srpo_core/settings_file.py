"""Settings from a YAML file and from `a.b=c` on the command line; every mistake is answered with its place."""

import difflib
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from srpo_core.config import Settings
from srpo_core.settings.secrets import hidden
from srpo_core.settings_reference import sections_of


class SettingsError(Exception):
    """Settings that cannot be used; the message has one line per mistake, each with the field's path."""


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings in the YAML file `path`, with `overrides` such as "update.learning_rate=2e-4" on top.

    Raises SettingsError for a file that cannot be read and for unknown, ill-typed or contradictory settings.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2024-13-45
        raise SettingsError(f"{path}: is not YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: must hold sections such as `rollout:`, not a {type(values).__name__}")
    return _settings(values, overrides, f"{path}: ")


def default_settings(overrides: Sequence[str]) -> Settings:
    """Every setting at its default, with `overrides` on top. Raises SettingsError."""
    return _settings({}, overrides, "")


def change_settings(settings: Settings, overrides: Sequence[str]) -> Settings:
    """The settings with `overrides` on top. Raises SettingsError."""
    return _settings(settings.model_dump(mode="json"), overrides, "")


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with other values, by their places such as "update.loss". Raises SettingsError."""
    every = settings.model_dump(mode="json")
    for place, value in values.items():
        *sections, name = place.split(".")
        reduce(getitem, sections, every)[name] = value
    return _settings(every, (), "")


def _settings(values: dict[str, Any], overrides: Sequence[str], origin: str) -> Settings:
    for override in overrides:
        _override(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        # Not chained: the library's message has the values in full, and would be logged with them.
        told = hidden("\n".join([f"{origin}the settings cannot be used", *_explain(error)]))
        raise SettingsError(told) from None


def dump_settings(settings: Settings) -> str:
    """Every setting as YAML, defaults included; `load_settings` reads it back equal."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    names = path.split(".")
    if not equals or not all(names):
        raise _refused(override, "write it as section.field=value, such as --set rollout.group_size=16")
    section = values
    for name in names[:-1]:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise _refused(override, f"{name} is a value, not a section")
    try:
        section[names[-1]] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise _refused(override, f"{text!r} is not a YAML value") from None


def _refused(override: str, why: str) -> SettingsError:
    return SettingsError(hidden(f"--set {override}: {why}"))


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        section, place = _walked([str(part) for part in problem["loc"]])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {'.'.join(place)}: {_unknown_field(section, place[-1])}")
        elif problem["type"] == "union_tag_invalid":
            known = problem["ctx"]["expected_tags"].replace("'", "")
            lines.append(f"  {'.'.join(place)}.source: must be one of {known} (got {problem['ctx']['tag']!r})")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"  {'.'.join(place)}: must be a section, with `source` (got {problem['input']!r})")
        elif place:
            # A whole section is not repeated: it may hold what was refused because it is a secret.
            got = "" if isinstance(problem["input"], dict | BaseModel) else f" (got {problem['input']!r})"
            lines.append(f"  {'.'.join(place)}: {message}{got}")
        else:
            lines.append(f"  {message}")
    return lines


def _walked(place: list[str]) -> tuple[type[BaseModel], list[str]]:
    """The section that a mistake is in, and its place as a settings file has it, without pydantic's union tags."""
    section: type[BaseModel] = Settings
    kinds: dict[str, type[BaseModel]] = {}
    told = []
    for part in place:
        if part in kinds:
            section, kinds = kinds[part], {}
            continue
        told.append(part)
        if part in section.model_fields:
            kinds = sections_of(section.model_fields[part])
            if set(kinds) == {""}:
                section, kinds = kinds[""], {}
    return section, told


def _unknown_field(section: type[BaseModel], name: str) -> str:
    allowed = list(section.model_fields)
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no such setting; {hint}allowed here: {', '.join(allowed)}"
