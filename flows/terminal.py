"""What the commands print: tables for people, JSON for programs; results of queries are in flows/results.py."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.status import Status

# Into a pipe or a file, rows are as wide as they are: cut columns would be lost.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


def print_json(value: Any) -> None:
    """`value` as indented JSON."""
    print(json.dumps(value, indent=2, default=str))


def print_runs(runs: Sequence[Status]) -> None:
    """One line per run."""
    table = Table("run", "state", "updates", "rollouts", "newest pass@1")
    for status in runs:
        newest = [row for row in status.evaluations if row["domain"] is None and row["class"] is None][-1:]
        score = _interval(newest[0]) if newest else "-"
        table.add_row(status.run, status.state, str(status.policy_versions), f"{status.rollouts:,}", score)
    console.print(table)


def print_status(status: Status) -> None:
    """Where a run stands, with its table of evaluations."""
    reason = f": {status.reason}" if status.reason else ""
    console.print(f"run {status.run}: {status.state}{reason}", soft_wrap=True)
    for stage in status.stages:
        discarded = f" ({stage['discarded']:,} discarded)" if stage["discarded"] else ""
        ended = f"; ended: {stage['ended']}" if stage["ended"] else ""
        console.print(
            f"  stage {stage['stage']}: {stage['epochs']} epochs, {stage['steps']} steps, "
            f"{stage['rollouts']:,} rollouts{discarded}, {stage['tokens']:,} tokens{ended}"
        )
    if status.evaluations:
        console.print(evaluation_table(status))
    if status.seconds:
        console.print("seconds: " + ", ".join(f"{kind} {value:.1f}" for kind, value in status.seconds.items()))
    console.print(f'history: {status.history}   (srpo sql {status.history} "SHOW TABLES")')
    console.print(f"report:  {status.report or f'not written yet (srpo report {status.run})'}")


def evaluation_table(status: Status) -> Table:
    """Held-out pass@1 with interval, by domain and class: of the base, and after each stage so far."""
    last = {row["stage"]: row["after"] for row in status.evaluations}
    table = Table("domain", "class", *["base" if stage == 0 else f"after stage {stage}" for stage in last])
    cells: dict[tuple[Any, Any], dict[int, str]] = {}
    for row in status.evaluations:
        if row["after"] == last[row["stage"]]:
            cells.setdefault((row["domain"], row["class"]), {})[row["stage"]] = _interval(row)
    for (domain, difficulty), by_stage in cells.items():
        table.add_row(
            domain or "all",
            "all" if difficulty is None else str(difficulty),
            *[by_stage.get(stage, "-") for stage in last],
        )
    return table


def print_suites(suites: Sequence[Mapping[str, Any]]) -> None:
    """What a policy did on each suite, a line each; and by class where a suite has several."""
    table = Table("suite", "class", "problems", "samples", "pass@1", "pass@k", "mean tokens", "truncated", "ungraded")
    for suite in suites:
        for row in suite["rows"]:
            table.add_row(
                suite["suite"],
                "all" if row["difficulty"] is None else str(row["difficulty"]),
                str(row["n"]),
                str(row["samples"]),
                _interval(row),
                ", ".join(f"{k}: {value:.3f}" for k, value in row["pass_at"].items()),
                f"{row['mean_tokens']:.1f}",
                f"{row['truncated']:.1%}",
                f"{row['ungraded']:.1%}",
            )
    console.print(table)


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['pass_at_1']:.3f} ({row['low']:.2f}-{row['high']:.2f})"
