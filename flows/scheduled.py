"""What is done for a store again and again, beside its runs: prefect.yaml has the schedules, which begin paused."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.artifacts import publish_table
from flows.evaluate_suites import evaluate_suites
from flows.evaluations import Evaluation, read_results
from flows.progress import announce
from flows.runs import Run, RunError, open_run
from storage.compaction import compact
from storage.verify import verify


@flow(name="evaluate newest", flow_run_name="evaluate the newest policies of {store}")
def evaluate_newest(store: str) -> None:
    """Evaluate the newest policy of every run of a store on its held-out problems, as `srpo eval RUN` does."""
    for run in _runs(store):
        if not run.history.read("policies").num_rows:
            announce(f"run {run.name} has no policy yet")
            continue
        evaluation = Evaluation(Path(store), evaluate_suites(store, run.name, []))
        (heldout,) = read_results(evaluation)
        rows = [{name: value for name, value in row.items() if name != "pass_at"} for row in heldout["rows"]]
        publish_table(run, "newest", rows, list(rows[0]), f"Held-out pass@1 of {evaluation.name}")
        announce(f"run {run.name} · {evaluation.name} · held-out pass@1 {rows[0]['pass_at_1']:.3f}")


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
