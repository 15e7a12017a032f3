"""Settings from a YAML file and from `a.b=c` on the command line; every mistake is answered with its place."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from srpo_core.config import Settings


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


def _settings(values: dict[str, Any], overrides: Sequence[str], origin: str) -> Settings:
    for override in overrides:
        _override(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join([f"{origin}the settings cannot be used", *_explain(error)])) from error


def dump_settings(settings: Settings) -> str:
    """Every setting as YAML, defaults included; `load_settings` reads it back equal."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    names = path.split(".")
    if not equals or not all(names):
        raise SettingsError(f"--set {override}: write it as section.field=value, such as --set rollout.group_size=16")
    section = values
    for name in names[:-1]:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise SettingsError(f"--set {override}: {name} is a value, not a section")
    try:
        section[names[-1]] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"--set {override}: {text!r} is not a YAML value") from error


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {'.'.join(place)}: {_unknown_field(place)}")
        elif place:
            lines.append(f"  {'.'.join(place)}: {message} (got {problem['input']!r})")
        else:
            lines.append(f"  {message}")
    return lines


def _unknown_field(place: list[str]) -> str:
    section: type[BaseModel] = Settings
    for name in place[:-1]:
        annotation = section.model_fields[name].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        section = annotation
    allowed = list(section.model_fields)
    close = difflib.get_close_matches(place[-1], allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no such setting; {hint}allowed here: {', '.join(allowed)}"
