"""`srpo select`: what a selector would have decided, beside what was decided. Nothing is written."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from flows.commands.common import STORE, SetOption, StoreOption, told_errors
from flows.runs import Run, WrongUseError, open_run
from flows.selection import selection_parameters
from srpo_core.settings_file import load_settings
from storage.selectors import load_rule, select

_KEPT = {(True, True): "kept by both", (True, False): "kept by the decision alone",
         (False, True): "kept by the selector alone", (False, False): "kept by neither"}  # fmt: skip


def select_prompts(
    target: Annotated[str, typer.Argument(metavar="RUN", help="A run of the store, or a run's directory.")],
    selector: Annotated[str, typer.Option(help="A selector's name, or a file NAME.sql.")],
    stage: Annotated[int, typer.Option(help="Training stage: 1 math, 2 math and code.")],
    epoch: Annotated[int, typer.Option(help="The finished epoch after which to decide.")],
    store: StoreOption = STORE,
    changes: SetOption = None,
    output: Annotated[
        str, typer.Option("--format", help="table (agreement); csv, json or parquet (every prompt).")
    ] = "table",
) -> None:
    """Show what a selector would have decided after an epoch, beside what was decided.

    The run's own settings hold unless `--set` changes them: `--set resampling.readmit_after=2`.
    """
    with told_errors():
        from flows import results

        if output not in results.FORMATS:
            raise WrongUseError(f"--format {output}: choose one of {', '.join(results.FORMATS)}")
        run = _open(store, target)
        rows = compare(run, selector, stage, epoch, changes or [])
        results.print_rows(pa.Table.from_pylist(agreement(rows) if output == "table" else rows), output)


def compare(run: Run, selector: str, stage: int, epoch: int, changes: list[str]) -> list[dict[str, Any]]:
    """One row per candidate of the epoch that followed: the decision that was made, and the selector's.

    Raises SelectorError, SettingsError, StoreError for an epoch that is not finished.
    """
    settings = load_settings(run.directory / "settings.yaml", [f"resampling.selector={selector}", *changes])
    parameters = selection_parameters(settings, stage=stage, epoch=epoch)
    answer = select(run.history, load_rule(selector), parameters, stage=stage, epoch=epoch).to_pylist()
    decided = run.history.read("decisions", stage=stage, epoch=epoch + 1, name="rows").to_pylist()
    made = {row["prompt_id"]: row for row in decided}
    return [
        {
            "prompt_id": row["prompt_id"],
            "domain": made[row["prompt_id"]]["domain"],
            "difficulty": made[row["prompt_id"]]["difficulty"],
            "bucket": row["bucket"],
            "decided": made[row["prompt_id"]]["keep"],
            "selected": row["keep"],
            "weight": row["weight"],
            "decided_reason": made[row["prompt_id"]]["reason"],
            "selected_reason": row["reason"],
        }
        for row in answer
    ]


def agreement(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many prompts both keep, one alone, or neither: all together and by what the last visit showed."""
    buckets = sorted({row["bucket"] for row in rows})
    counts = Counter((_KEPT[row["decided"], row["selected"]], row["bucket"]) for row in rows)
    return [
        {"": told, "prompts": sum(counts[told, bucket] for bucket in buckets)}
        | {bucket: counts[told, bucket] for bucket in buckets}
        for told in _KEPT.values()
    ]


def _open(store: Path, target: str) -> Run:
    directory = Path(target)
    if (directory / "settings.yaml").is_file():
        return open_run(directory.absolute().parent, directory.absolute().name)
    return open_run(store, target)
