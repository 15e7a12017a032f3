"""Resampling: the next epoch's prompts, by the run's selector, from what the history says so far."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.plan import publish_plan, read_plan, read_problems
from flows.progress import announce_resampling
from flows.runs import Run
from flows.selection import selection_parameters
from flows.summaries import show_decisions
from flows.transition import record_decision
from flows.working import working
from storage.selectors import record_visits, select


@flow(name="resample", flow_run_name="{run} · stage {stage} · epoch {epoch} · resample")
def resample(store: str, run: str, stage: int, epoch: int) -> None:
    """Decide about every candidate prompt after an epoch, build the next epoch or end the stage."""
    with working(store, run, "resample") as the_run:
        decide_prompts(the_run, stage, epoch)
        record_decision(the_run, stage, epoch)
        decisions = the_run.history.read("decisions", stage=stage, epoch=epoch + 1, name="rows").to_pylist()
        announce_resampling(stage, epoch, decisions)
        show_decisions(the_run, stage, epoch, decisions)


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
