"""History Resampling: the next epoch's prompts, from what the history says of the last one."""

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish_table
from flows.plan import publish_plan, read_plan, read_problems
from flows.progress import announce_resampling
from flows.runs import Run, open_run


@flow(name="resample", flow_run_name="{run} · stage {stage} · epoch {epoch} · resample")
def resample(store: str, run: str, stage: int, epoch: int) -> None:
    """Decide about every prompt of the epoch just finished, and build the next epoch from those that stay."""
    the_run = open_run(Path(store), run)
    decide_prompts(the_run, stage, epoch)
    decisions = the_run.history.read("decisions", stage=stage, epoch=epoch + 1, name="rows").to_pylist()
    announce_resampling(stage, epoch, decisions)
    columns = ("prompt_id", "domain", "difficulty", "keep", "bucket", "reason", "pass_rate")
    told = f"Stage {stage}: what the rollouts of epoch {epoch} decided about the prompts of epoch {epoch + 1}"
    publish_table(the_run, "resampling", decisions, columns, told)


@task(name="decide prompts", cache_policy=NO_CACHE)
def decide_prompts(run: Run, stage: int, epoch: int) -> None:
    """Run the selector over the epoch, record its decisions, and plan the next epoch."""
    selector = run.settings.resampling.selector
    problems = {problem.id: problem for problem in read_problems(run, "train")}
    decisions: list[dict[str, Any]] = []
    for row in run.history.select(selector, stage=stage, epoch=epoch).to_pylist():
        problem = problems[row["prompt_id"]]
        decisions.append({**row, "domain": problem.domain, "difficulty": problem.difficulty})
    first_version = read_plan(run, stage, epoch).last_version
    publish_plan(run, stage, epoch + 1, decisions, first_version=first_version, selector=selector)
