"""What of a run's settings was changed since it began: a file for each time, beside settings.yaml, never rewritten.

STORE/<run>/changes/000001.yaml    who, when, where the run stood, and each setting with both values
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from srpo_core.settings.differences import Difference
from srpo_core.settings_file import SettingsError
from storage.files import publish_file


@dataclass(frozen=True)
class Changes:
    """Settings that were changed at one time: by whom, when (ISO 8601), and where the run stood then.

    `stage` and `epoch` are the newest that were planned, `policy_version` the newest that was published; each of
    `changes` is {setting, before, after}.
    """

    number: int
    by: str
    at: str
    stage: int
    epoch: int
    policy_version: int
    changes: list[dict[str, Any]]

    @property
    def values(self) -> dict[str, Any]:
        """The new values, by their places."""
        return {change["setting"]: change["after"] for change in self.changes}


def read_changes(directory: Path) -> list[Changes]:
    """All changes of the run in `directory`, in their order. Raises SettingsError for a damaged file."""
    found = []
    for number, path in enumerate(sorted((directory / "changes").glob("*.yaml")), start=1):
        try:
            found.append(Changes(number=number, **yaml.safe_load(path.read_text(encoding="utf-8"))))
        except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
            raise SettingsError(f"{path}: cannot be read ({error}): put a good copy back") from error
    return found


def write_changes(directory: Path, scratch: Path, changes: Changes) -> bool:
    """Publish the run's next changes; False: another process was first with its own."""
    content = {name: value for name, value in asdict(changes).items() if name != "number"}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (directory / "changes").mkdir(exist_ok=True)
    final = directory / "changes" / f"{changes.number:06d}.yaml"
    return publish_file(final, scratch, lambda path: _write(path, text))


def described(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """Differences as `Changes.changes` has them."""
    return [{"setting": each.place, "before": each.before, "after": each.after} for each in found]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
