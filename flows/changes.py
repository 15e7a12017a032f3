"""Going on with a run under changed settings: what may change, and the record of what did.

Each setting tells by its mark whether a run may go on with another value of it (srpo_core/settings/section.py).
The record has two phases, as a policy version has: the file beside settings.yaml, with which the change takes effect,
then its rows in the table `changes`, which the next start publishes if a kill came in between.
"""

import getpass
import json
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.decisions import stage_decision
from flows.runs import Run, WrongUseError, create_run
from flows.settings_log import Changes, described, read_changes, write_changes
from srpo_core.config import Settings
from srpo_core.settings.differences import Difference, differences
from srpo_core.settings.section import MayChange
from srpo_core.settings_file import change_settings, with_values


def begin_or_change(store: Path, name: str, settings: Settings, by: str, tell: Callable[[str], None]) -> Run:
    """The run `name` of `store`, begun with `settings`, or gone on with under them.

    Raises WrongUseError naming every setting that a run that is there cannot go on with, and what `create_run` raises.
    """
    return _changed(create_run(store, name, settings), settings, by, tell)


def change_run(run: Run, changes: Sequence[str], by: str, tell: Callable[[str], None]) -> Run:
    """The run with changed settings, such as "guards.max_hours=8"; what is changed is told by `tell` and recorded.

    Raises SettingsError for what is no setting or contradicts others, WrongUseError for what may not change.
    """
    return _changed(run, change_settings(run.settings, changes), by, tell) if changes else run


def publish_changes(run: Run) -> None:
    """The rows of changes that have none yet, in the history. Call it while the run is locked."""
    for entry in read_changes(run.directory):
        stage, epoch, name = entry.stage, entry.epoch, f"change-{entry.number:06d}"
        rows = [
            {
                "change": entry.number,
                "policy_version": entry.policy_version,
                "setting": change["setting"],
                "before": json.dumps(change["before"]),
                "after": json.dumps(change["after"]),
            }
            for change in entry.changes
        ]
        if not run.history.has("changes", stage=stage, epoch=epoch, name=name):
            run.history.publish("changes", rows, stage=stage, epoch=epoch, name=name)


def this_person() -> str:
    """Who changes settings from a command line: the user and the machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _changed(run: Run, settings: Settings, by: str, tell: Callable[[str], None]) -> Run:
    found = list(differences(run.settings, settings))
    if not found:
        return run
    _refuse(run, [(each, "rows and policies would differ") for each in found if each.may is None])
    with run.locked():
        _refuse(run, _decided_otherwise(run, settings, found))
        stage, epoch, version = _standing(run)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        number = len(read_changes(run.directory)) + 1
        write_changes(
            run.directory, run.history.tmp_root, Changes(number, by, at, stage, epoch, version, described(found))
        )
        again = Run(run.store, run.name)
        publish_changes(again)
    for each in found:
        rounding = " (the last digits may differ from now on)" if each.may is MayChange.ROUNDED else ""
        tell(f"run {run.name} goes on with {each.place} {_told(each.after)}, was {_told(each.before)}{rounding}")
    return again


def _refuse(run: Run, refused: Sequence[tuple[Difference, str]]) -> None:
    if refused:
        lines = [f"  {d.place}: {_told(d.before)} then, {_told(d.after)} now: {why}" for d, why in refused]
        raise WrongUseError(
            f"run {run.name} began with other settings, and cannot go on with these:\n"
            + "\n".join(lines)
            + f"\nLeave them out (`srpo resume {run.name}` goes on as it was), or choose another --run-id for a run "
            "of its own; `srpo settings` tells which may change later"
        )


def _decided_otherwise(run: Run, settings: Settings, found: Sequence[Difference]) -> list[tuple[Difference, str]]:
    """Changes of settings that decide about the run's course and would have decided otherwise by now, and where."""
    why = _other_course(run, settings)
    if why is None:
        return []
    ahead = [each for each in found if each.may is MayChange.AHEAD]
    alone = [(each, _other_course(run, with_values(run.settings, {each.place: each.after}))) for each in ahead]
    guilty = [(each, reason) for each, reason in alone if reason is not None]
    return guilty or [(each, why) for each in ahead]


def _other_course(run: Run, settings: Settings) -> str | None:
    """Where the run would have taken another course under other settings, in a sentence; None: nowhere so far."""
    moves = {}
    for row in run.history.read("transitions").to_pylist():
        stage, epoch, move = row["stage"], row["epoch"], row["decision"]
        moves[stage, epoch + 1] = move
        decision = stage_decision(run, settings, stage, epoch).to_pylist()[0]
        if decision["decision"] != move:
            return f"stage {stage} would not have {_PAST[move]} after epoch {epoch}, as it did: {decision['reason']}"
    for row in run.history.read("evaluations").to_pylist():
        stage, after = row["stage"], row["after"]
        if moves.get((stage, after)) == "continue" and after % settings.evaluation.every_epochs:
            return f"the evaluation after epoch {after - 1} of stage {stage}, which is there, would not be"
    return None


_PAST = {"continue": "gone on", "switch": "ended", "finish": "ended"}


def _standing(run: Run) -> tuple[int, int, int]:
    """The newest stage and epoch that were planned, and the newest policy version; zeros before there is one."""
    planned = [(row["stage"], row["epoch"]) for row in run.history.read("epochs").to_pylist()]
    versions = run.history.read("policies")["version"].to_pylist()
    stage, epoch = max(planned, default=(0, 0))
    return stage, epoch, max(versions, default=0)


def _told(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
