"""What a person fills in to start a run: the form that the Prefect UI builds, and what the command sends."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flows.changes import begin_or_change, change_run
from flows.progress import announce
from flows.runs import RUN_NAME, Run, WrongUseError, open_run
from flows.settings_log import read_changes
from srpo_core.settings_file import load_settings

CONFIGS = Path(__file__).parents[1] / "configs"


class RunRequest(BaseModel):
    """A run to be begun, or to be gone on with."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        title="Run",
        pattern=f"^{RUN_NAME.pattern}$",
        description="Name of the run, and of its directory. A run that is there already goes on.",
    )
    store: str = Field(
        title="Store",
        pattern="^/",
        description="Directory that holds the runs: an absolute path, the same on every worker.",
    )
    settings: str | None = Field(
        default="demo",
        title="Settings",
        description="Name of a file in configs/, or an absolute path of one on the workers. Empty: the run is there "
        "already, and goes on with the settings that it has.",
    )
    changes: list[str] = Field(
        default_factory=list,
        title="Changes",
        max_length=100,
        description="Settings to change, such as update.learning_rate=1e-4; of a run that is there, those that may "
        "change later: docs/settings.md.",
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
    path = CONFIGS / f"{named.removesuffix('.yaml')}.yaml"
    if "/" in named or not path.is_file():
        known = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
        raise WrongUseError(f"settings {named!r} are neither an absolute path nor a file of {CONFIGS}: it has {known}")
    return path
