"""Selectors with a run's settings: the rule that is tried before a run begins, and its parameters."""

from pathlib import Path
from typing import Any

from srpo_core.config import Settings
from srpo_core.seeds import derive_seed
from srpo_core.settings.resampling import ResamplingSettings
from srpo_core.settings_file import SettingsError
from storage.selectors import Rule, SelectorError, load_rule, try_rule, used_parameters


def tried_rule(settings: Settings) -> Rule:
    """The rule that the settings name, after it decided about made-up histories.

    Raises SettingsError for a rule that cannot be used and for settings that it does not use.
    """
    try:
        rule = load_rule(settings.resampling.selector)
        _refuse_unused(settings, rule)
        try_rule(rule, selection_parameters(settings, stage=1, epoch=0))
    except SelectorError as error:
        raise SettingsError(f"resampling.selector: {error}") from error
    return rule


def selection_parameters(settings: Settings, *, stage: int, epoch: int) -> dict[str, Any]:
    """What a rule may name after an epoch, besides $stage and $epoch; the seed is of this decision's own."""
    return {
        "seed": derive_seed(settings.seed, "select", stage, epoch),
        "prompts_per_step": settings.rollout.prompts_per_step,
        "group_size": settings.rollout.group_size,
        **settings.resampling.model_dump(exclude={"selector"}),
    }


def rule_file(directory: Path, rule: Rule) -> Path:
    """Where a run's directory keeps the text of its rule."""
    return directory / f"selector-{rule.sha256}.sql"


def kept_rule(directory: Path, selector: str) -> Rule:
    """The rule that the run in `directory` began with, whatever became of the file that it was read from.

    Raises SelectorError when it is gone or changed.
    """
    found = sorted(directory.glob("selector-*.sql"))
    if len(found) != 1:
        raise SelectorError(f"{directory} must hold one file selector-*.sql, the run's rule, and holds {len(found)}.")
    kept = load_rule(str(found[0]))
    if rule_file(directory, kept) != found[0]:
        raise SelectorError(f"{found[0]} was changed since the run began: put back the text with that SHA-256.")
    name = f"{Path(selector).name}@{kept.sha256[:12]}" if selector.endswith(".sql") else selector
    return Rule(name, kept.text)


def _refuse_unused(settings: Settings, rule: Rule) -> None:
    changed = settings.resampling.model_dump(exclude={"selector"})
    defaults = ResamplingSettings().model_dump()
    used = used_parameters(rule)
    if unused := [name for name, value in changed.items() if value != defaults[name] and name not in used]:
        told = ", ".join(f"resampling.{name}" for name in unused)
        uses = ", ".join(f"resampling.{name}" for name in sorted(used & set(changed))) or "none of them"
        raise SettingsError(f"{told} would change nothing: the selector {rule.name} uses {uses}")
