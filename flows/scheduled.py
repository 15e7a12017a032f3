"""What is done for a store again and again, beside its runs: prefect.yaml has the schedules, which begin paused."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.artifacts import publish_table
from flows.heldout import evaluate_directory
from flows.progress import announce
from flows.runs import Run, RunError, newest_policy, open_run
from storage.compaction import compact
from storage.verify import verify


@flow(name="evaluate newest", flow_run_name="evaluate the newest policies of {store}")
def evaluate_newest(store: str) -> None:
    """Evaluate the newest policy of every run of a store, as tables in the UI. Nothing is written to the histories."""
    for run in _runs(store):
        if not run.history.read("policies").num_rows:
            announce(f"run {run.name} has no policy yet")
            continue
        directory = newest_policy(run)
        rows = evaluate_directory(directory, run.settings)
        publish_table(run, "newest", rows, list(rows[0]), f"Held-out pass@1 of {directory.name}, run {run.name}")
        announce(f"run {run.name} · {directory.name} · held-out pass@1 {rows[0]['pass_at_1']:.3f}")


@flow(name="maintain", flow_run_name="maintain the histories of {store}")
def maintain(store: str) -> None:
    """Verify every history of a store, and compact the finished epochs of those that are whole.

    Raises RunError at the end, naming the files, when a history is damaged.
    """
    damaged = []
    for run in _runs(store):
        faults = verify(run.history.store).faults
        damaged += [f"{fault.place}: {fault.what} {fault.remedy}" for fault in faults]
        if not faults:
            compacted = compact(run.history)
            announce(f"run {run.name} is whole; {len(compacted)} epochs were compacted")
    if damaged:
        create_markdown_artifact("\n".join(f"- {each}" for each in damaged), key="srpo-damaged")
        raise RunError(f"{len(damaged)} damaged files, the first: {damaged[0]}")


def _runs(store: str) -> list[Run]:
    return [open_run(path.parents[1], path.parent.name) for path in sorted(Path(store).glob("*/settings.yaml"))]
