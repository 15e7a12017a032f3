"""What a person fills in to start a run: the form that the Prefect UI builds, and what the command sends."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flows.changes import begin_or_change, change_run
from flows.progress import announce
from flows.runs import RUN_NAME, Run, WrongUseError, open_run
from flows.settings_log import read_changes
from srpo_core.settings_file import load_settings

CONFIGS = Path(__file__).parents[1] / "configs"
_NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))

# The form shows each as a tab with its title: the first as a list to choose from, the second as a line to write.
_ByName = Annotated[str, Field(title="By name", json_schema_extra={"enum": list(_NAMES)})]
_ByPath = Annotated[str, Field(title="By path", pattern="^/")]
_AsBegun = Annotated[None, Field(title="As the run began")]


class RunRequest(BaseModel):
    """A run to be begun, or to be gone on with."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        title="Name of the run",
        pattern=f"^{RUN_NAME.pattern}$",
        description="And of its directory: letters, digits, '.', '_' and '-', at most 64 of them. A run that is there "
        "already goes on.",
    )
    store: str = Field(
        title="Store",
        pattern="^/",
        description="Directory that holds the runs: an absolute path, the same on every worker.",
    )
    settings: _ByName | _ByPath | _AsBegun = Field(
        default="demo",
        title="Settings",
        description="By name: a file that comes with SRPO, in configs/. By path: one of your own, an absolute path "
        "that every worker can read. As the run began: for one that is there already and goes on.",
    )
    changes: list[Annotated[str, Field(title="section.field=value", pattern=r"^[^=\s]+=")]] = Field(
        default_factory=list,
        title="Changes to the settings",
        max_length=100,
        description="One an item, such as update.learning_rate=1e-4 or stages.math.max_steps=40; docs/settings.md has "
        "them all, and tells which may change in a run that is there.",
    )


def requested_run(request: RunRequest, by: str, *, again: bool) -> Run:
    """The run that was asked for, begun if need be, under the settings that were asked for.

    Asked for `again`, a run goes on as it stands, whatever became of the settings file or was changed since.
    Raises WrongUseError and SettingsError for what cannot be run.
    """
    store = Path(request.store)
    if request.settings is None:
        run = open_run(store, request.name)
        done = any(entry.by == by for entry in read_changes(run.directory))
        return run if done else change_run(run, request.changes, by, announce)
    if again and (store / request.name / "settings.yaml").is_file():
        return open_run(store, request.name)
    settings = load_settings(_settings_file(request.settings), request.changes)
    return begin_or_change(store, request.name, settings, by, announce)


def _settings_file(named: str) -> Path:
    if Path(named).is_absolute():
        return Path(named)
    if named not in _NAMES:
        known = ", ".join(_NAMES)
        raise WrongUseError(f"settings {named!r} are neither an absolute path nor a file of {CONFIGS}: it has {known}")
    return CONFIGS / f"{named}.yaml"
