"""Publishing policy versions, and dropping those that nobody needs any more.

Publishing has two phases: the checkpoint's directory appears whole under its final name, then the row that names it
appears in the policies table. A kill between them leaves a whole checkpoint, which the next attempt takes as it is.
"""

from pathlib import Path

from flows.plan import EpochPlan
from flows.runs import Run, RunError, policy_path
from storage.files import remove_directory


def is_published(run: Run, plan: EpochPlan, version: int) -> bool:
    """Whether a version of this epoch is published; the one that the epoch starts from always is."""
    name = _row_name(version)
    return version == plan.first_version or run.history.has("policies", stage=plan.stage, epoch=plan.epoch, name=name)


def checked_policy(run: Run, version: int) -> Path:
    """The directory of a published version, its weights compared with the checksum that was published.

    Raises RunError when they differ, PolicyError when they cannot be read.
    """
    from srpo_core.policy.checkpoints import MODEL_FILE, model_checksum  # takes torch, which not every process needs

    (row,) = run.history.read("policies", name=_row_name(version)).to_pylist()
    directory = run.policy(version)
    if model_checksum(directory) != row["sha256"]:
        raise RunError(f"{directory / MODEL_FILE} is not what was published: put a good copy back and resume")
    return directory


def publish_row(run: Run, version: int, *, stage: int, epoch: int, step: int) -> None:
    """Second phase: the row that names the checkpoint, from which on it counts as published."""
    from srpo_core.policy.checkpoints import model_checksum

    row = {
        "version": version,
        "step": step,
        "path": policy_path(version),
        "sha256": model_checksum(run.policy(version)),
    }
    run.history.publish("policies", [row], stage=stage, epoch=epoch, name=_row_name(version))


def prune(run: Run, newest: int) -> None:
    """Remove versions older than the newest `keep_policies`, but for those that are kept for ever.

    Those are the ones that an epoch began or ended with, the base among them, and every `keep_policies_every`-th.
    """
    boundaries = set(run.history.read("epochs")["first_version"].to_pylist())
    every = run.settings.keep_policies_every
    for path in (run.directory / "policies").glob("version-*"):
        version = int(path.name.removeprefix("version-"))
        kept = version in boundaries or (every is not None and version % every == 0)
        if version <= newest - run.settings.keep_policies and not kept:
            remove_directory(path, run.history.tmp_root)


def _row_name(version: int) -> str:
    return f"version-{version:06d}"
