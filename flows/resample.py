"""Resampling: the next epoch's prompts, by the run's selector, from what the history says so far."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish_table
from flows.plan import publish_plan, read_plan, read_problems
from flows.progress import announce_resampling
from flows.runs import Run
from flows.selection import selection_parameters
from flows.working import working
from storage.selectors import record_visits, select

_SHOWN = 1000  # rows of an artifact; all of them are in `decisions`
_COUNTS = """
    SELECT bucket, keep, count(*) AS prompts, sum(visits) / count(*) AS mean_visits, avg(pass_rate) AS mean_pass_rate,
           count(*) FILTER (WHERE reason LIKE 'warning, floor:%') AS kept_by_the_floor
    FROM decisions WHERE stage = $stage AND epoch = $epoch GROUP BY ALL ORDER BY ALL
"""


@flow(name="resample", flow_run_name="{run} · stage {stage} · epoch {epoch} · resample")
def resample(store: str, run: str, stage: int, epoch: int) -> None:
    """Decide about every candidate prompt after an epoch, and build the next epoch from those that stay."""
    with working(store, run, "resample") as the_run:
        decide_prompts(the_run, stage, epoch)
        decisions = the_run.history.read("decisions", stage=stage, epoch=epoch + 1, name="rows").to_pylist()
        announce_resampling(stage, epoch, decisions)
        rule = the_run.rule.name
        told = f"Stage {stage}: what the history up to epoch {epoch} decided about epoch {epoch + 1}, by {rule}"
        counts = the_run.history.sql(_COUNTS, {"stage": stage, "epoch": epoch + 1}).to_pylist()
        publish_table(the_run, "resampling", counts, list(counts[0]), told)
        columns = ("prompt_id", "domain", "difficulty", "keep", "bucket", "reason", "pass_rate", "weight", "visits")
        part = f"; the first {_SHOWN} of {len(decisions)} prompts" if len(decisions) > _SHOWN else ""
        publish_table(the_run, "decisions", decisions[:_SHOWN], columns, told + part)


@task(name="decide prompts", cache_policy=NO_CACHE)
def decide_prompts(run: Run, stage: int, epoch: int) -> None:
    """Record what the epoch showed, run the selector, record its decisions, and plan the next epoch."""
    record_visits(run.history, stage=stage, epoch=epoch)
    problems = {problem.id: problem for problem in read_problems(run, "train")}
    parameters = selection_parameters(run.settings, stage=stage, epoch=epoch)
    decisions: list[dict[str, Any]] = []
    for row in select(run.history, run.rule, parameters, stage=stage, epoch=epoch).to_pylist():
        problem = problems[row["prompt_id"]]
        del row["brought_back"]  # its reason tells
        decisions.append({**row, "domain": problem.domain, "difficulty": problem.difficulty})
    first_version = read_plan(run, stage, epoch).last_version
    publish_plan(run, stage, epoch + 1, decisions, first_version=first_version, selector=run.rule.name)
