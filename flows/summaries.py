"""What the Prefect UI shows of an epoch and of a run, from what they committed; docs/operations.md lists it."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.artifacts import publish_link, publish_table, publish_text, send
from flows.progress import duration, evaluated
from flows.runs import Run
from flows.status import KINDS, Status, read_status

Row = dict[str, Any]

# Over the rollouts of one epoch: each step, and (step: null) all of them. As the view step_stats has it.
_STEPS = """
    WITH of_rollouts AS (
        SELECT step, count(*) AS rollouts, sum(completion_tokens)::BIGINT AS tokens, avg(reward) AS reward,
               avg(accuracy) AS accuracy, avg(completion_tokens) AS length,
               avg((finish_reason = 'length')::INT) AS truncated
        FROM epoch_rollouts GROUP BY GROUPING SETS ((step), ())
    ),
    of_groups AS (
        SELECT step, avg(same::INT) AS zero_variance
        FROM (
            SELECT step, prompt_id, max(reward) - min(reward) <= 1e-6 AS same FROM epoch_rollouts GROUP BY ALL
        )
        GROUP BY GROUPING SETS ((step), ())
    )
    SELECT r.*, g.zero_variance
    FROM of_rollouts AS r JOIN of_groups AS g ON r.step IS NOT DISTINCT FROM g.step
    ORDER BY r.step NULLS LAST
"""
_FIGURES = {"reward": ".3f", "accuracy": ".3f", "zero_variance": ".1%", "length": ".1f", "truncated": ".1%"}
# Columns of the table of steps, and the metrics that they show.
_MEASURED = {
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "clip_ratio": "clip_ratio/region_mean",
    "generate_s": "timing_s/generate",
    "update_s": "timing_s/update",
}
_TOLD = {"zero_variance": "zero variance", "length": "mean length, tokens", "truncated": "cut off"}


def show_decisions(run: Run, stage: int, epoch: int, decisions: Sequence[Row]) -> None:
    """What resampling after an epoch decided: by bucket, and prompt by prompt."""
    told = f"Stage {stage}: what the history up to epoch {epoch} decided about epoch {epoch + 1}, by {run.rule.name}"
    counts = _by_bucket(decisions)
    publish_table(run, "resampling", counts, list(counts[0]), told)
    columns = ("prompt_id", "domain", "difficulty", "keep", "bucket", "reason", "pass_rate", "weight", "visits")
    publish_table(run, "decisions", decisions, columns, told)


def show_epoch(run: Run, stage: int, epoch: int) -> None:
    """A finished epoch: its steps as a table, and what came of it as a text. Read and sent beside the work."""
    send(_show_epoch, run, stage, epoch)


def show_run(run: Run) -> None:
    """A finished run as a text, and where its report is. Read and sent beside the work."""
    send(_show_run, run)
    publish_link(run, "report", run.report.absolute().as_uri(), str(run.report), f"The report of run {run.name}")


def show_store(run: Run) -> None:
    """Where the run's history is."""
    url = run.settings.history.url
    place = f"{url.rstrip('/')}/{run.name}" if url is not None else run.directory.absolute().as_uri()
    told = f'The history of run {run.name}; srpo sql {run.name} "SHOW TABLES"'
    publish_link(run, "store", place, url or str(run.directory), told)


def _by_bucket(decisions: Sequence[Row]) -> list[Row]:
    cells: dict[tuple[str, bool], list[Row]] = {}
    for decision in decisions:
        cells.setdefault((decision["bucket"], decision["keep"]), []).append(decision)
    return [
        {
            "bucket": bucket,
            "keep": keep,
            "prompts": len(rows),
            "mean_visits": sum(row["visits"] for row in rows) / len(rows),
            "mean_pass_rate": _mean([row["pass_rate"] for row in rows]),
            "kept_by_the_floor": sum(row["reason"].startswith("warning, floor:") for row in rows),
        }
        for (bucket, keep), rows in sorted(cells.items())
    ]


def _show_epoch(run: Run, stage: int, epoch: int) -> None:
    history = run.history
    *sampled, whole = history.query_epoch(_STEPS, stage=stage, epoch=epoch).to_pylist()
    metrics = _metrics(run, stage, epoch)
    steps = [step | _measured([row for row in metrics if row["step"] == step["step"]]) for step in sampled]
    where = f"Stage {stage}, epoch {epoch}"
    publish_table(run, "steps", steps, list(steps[0]), f"{where}: its steps")
    parts = [
        f"# {run.name} · stage {stage} · epoch {epoch}",
        f"{len(steps)} steps, {whole['rollouts']:,} rollouts, {whole['tokens']:,} tokens",
        _from_to(steps, whole),
        *_came_of_it(run, stage, epoch),
        _staleness(steps),
        _seconds(_by_kind(metrics)),
    ]
    publish_text(run, "epoch", "\n\n".join(parts), where)


def _metrics(run: Run, stage: int, epoch: int) -> list[Row]:
    """What was measured in an epoch and in the evaluation that followed, whose `epoch` counts the finished ones."""
    found = run.history.read("metrics", stage=stage, epoch=epoch).to_pylist()
    after = run.history.read("metrics", stage=stage, epoch=epoch + 1).to_pylist()
    return [row for row in found if row["kind"] != "evaluate"] + [row for row in after if row["kind"] == "evaluate"]


def _measured(metrics: Sequence[Row]) -> Row:
    """Of a step: the version that it made, how stale its rollouts were, and figures of its update."""
    values = {row["name"]: row["value"] for row in metrics if row["kind"] in ("rollout", "update")}
    versions = {row["kind"]: row["policy_version"] for row in metrics}
    told: Row = {"version": versions["update"], "staleness": versions["update"] - 1 - versions["rollout"]}
    return told | {column: values.get(name) for column, name in _MEASURED.items()}


def _from_to(steps: Sequence[Row], whole: Row) -> str:
    lines = ["| | first step | last step | whole epoch |", "|---|---|---|---|"]
    for name, form in _FIGURES.items():
        cells = [_cell(row[name], form) for row in (steps[0], steps[-1], whole)]
        lines.append(f"| {_TOLD.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _came_of_it(run: Run, stage: int, epoch: int) -> list[str]:
    """What was decided after the epoch, and what the policy then could."""
    history = run.history
    decisions = history.read("decisions", stage=stage, epoch=epoch + 1, name="rows").to_pylist()
    buckets = ", ".join(f"{row['prompts']} {row['bucket']} {_fate(row['keep'])}" for row in _by_bucket(decisions))
    (transition,) = history.read("transitions", stage=stage, epoch=epoch, name="rows").to_pylist()
    parts = [
        f"**Prompts**, by `{run.rule.name}`: {buckets}",
        f"**The stage**: {transition['decision']}, as {transition['reason']}",
    ]
    if history.has("evaluations", stage=stage, epoch=epoch + 1):
        rows = history.read("evaluations", stage=stage, epoch=epoch + 1, name="rows").to_pylist()
        told = [f"{row['domain'] or 'all'} {_interval(row)}" for row in rows if row["difficulty"] is None]
        parts.append(f"**Held-out pass@1**: {', '.join(told)}")
    return parts


def _fate(keep: bool) -> str:
    return "stay" if keep else "dropped"


def _staleness(steps: Sequence[Row]) -> str:
    stale = [step["staleness"] for step in steps]
    return f"**Staleness**: {sum(stale) / len(stale):.2f} versions in mean, {max(stale)} at most"


def _by_kind(metrics: Sequence[Row]) -> dict[str, float]:
    """Seconds of an epoch by kind of work, what is left of them, and all of them: as `srpo status` has them."""
    seconds: dict[str, float] = {}
    for row in metrics:
        kind = row["name"].removeprefix("timing_s/")
        if kind in (*KINDS, "wall") and kind != row["name"]:
            seconds[kind] = seconds.get(kind, 0.0) + row["value"]
    told = {kind: seconds[kind] for kind in KINDS if kind in seconds}
    return told | {"orchestration": max(0.0, seconds["wall"] - sum(told.values())), "wall": seconds["wall"]}


def _seconds(seconds: Mapping[str, float]) -> str:
    return "**Seconds**: " + ", ".join(f"{kind} {value:.1f}" for kind, value in seconds.items())


def _show_run(run: Run) -> None:
    status = read_status(run)
    parts = [
        f"# {run.name}",
        f"{status.policy_versions} updates from {status.rollouts:,} rollouts ({status.tokens:,} tokens)",
        _pass_at_1(status),
        "\n".join(_stage(row) for row in status.stages),
        _seconds(status.seconds) + f"; {duration(status.seconds['wall'])} in epochs",
        "\n".join(
            f"- {name}: `{place}`"
            for name, place in (
                ("settings", run.directory / "settings.yaml"),
                ("history", run.history.store.root),
                ("newest policy", run.policy(status.policy_versions)),
                ("report", run.report),
            )
        ),
    ]
    publish_text(run, "summary", "\n\n".join(parts), f"Run {run.name}")


def _stage(row: Mapping[str, Any]) -> str:
    discarded = f" ({row['discarded']:,} discarded)" if row["discarded"] else ""
    return (
        f"- stage {row['stage']}: {row['epochs']} epochs, {row['steps']} steps, {row['rollouts']:,} rollouts"
        f"{discarded}, {row['tokens']:,} tokens; ended: {row['ended']}"
    )


def _pass_at_1(status: Status) -> str:
    """Held-out pass@1 with intervals, by domain: of the base, and after each stage."""
    last = {row["stage"]: row["after"] for row in status.evaluations}
    names = [evaluated(0, 0) if stage == 0 else f"after stage {stage}" for stage in last]
    lines = ["| held-out pass@1 | " + " | ".join(names) + " |", "|---" * (len(last) + 1) + "|"]
    cells: dict[str, list[str]] = {}
    for row in status.evaluations:
        if row["class"] is None and row["after"] == last[row["stage"]]:
            cells.setdefault(row["domain"] or "all", []).append(_interval(row))
    return "\n".join([*lines, *(f"| {domain} | " + " | ".join(told) + " |" for domain, told in cells.items())])


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['pass_at_1']:.3f} ({row['low']:.3f}-{row['high']:.3f})"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
