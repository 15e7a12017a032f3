"""When a stage ends, and the step from stage 1 (math) to stage 2 (math and code)."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.decisions import stage_decision
from flows.plan import new_prompt, publish_plan, read_plan, read_problems
from flows.progress import announce
from flows.runs import Run
from flows.stages import MATH, MATH_AND_CODE
from flows.working import working


def record_decision(run: Run, stage: int, epoch: int) -> None:
    """Record whether the stage goes on after `epoch`, once the epoch is resampled.

    A stage ends when the prompts that are left do not fill a step (a policy that goes on learning from a handful
    forgets the rest), at its step limit, and, stage 1, when the accuracy is flat.
    """
    if not run.history.has("transitions", stage=stage, epoch=epoch):
        decision = stage_decision(run, run.settings, stage, epoch)
        run.history.publish("transitions", decision, stage=stage, epoch=epoch)


def decide_stage(run: Run, stage: int, epoch: int) -> str:
    """Tell what is decided about the stage after `epoch`: `continue`, `switch` or `finish`."""
    record_decision(run, stage, epoch)  # unless the resampling did, before which this run may have been killed
    row = run.history.read("transitions", stage=stage, epoch=epoch, name="rows").to_pylist()[0]
    announce(f"stage {stage} · epoch {epoch} · {row['decision']}: {row['reason']}")
    return str(row["decision"])


@flow(name="transition", flow_run_name="{run} · stage 1 to stage 2, after epoch {epoch} · transition")
def transition(store: str, run: str, epoch: int) -> None:
    """Build the first prompt set of stage 2 after the last `epoch` of stage 1."""
    with working(store, run, "transition") as the_run:
        build_second_stage(the_run, epoch)
        rows = the_run.history.read("decisions", stage=MATH_AND_CODE, epoch=0, name="rows").to_pylist()
        kept = [row["domain"] for row in rows if row["keep"]]
        announce(f"stage 2 begins with {kept.count('code')} code prompts and {kept.count('math')} math prompts")


@task(name="build second stage", cache_policy=NO_CACHE)
def build_second_stage(run: Run, epoch: int) -> None:
    """Every code prompt, and the math prompts that stage 1 kept after its last epoch."""
    last = run.history.read("decisions", stage=MATH, epoch=epoch + 1, name="rows").to_pylist()
    code = [problem for problem in read_problems(run, "train") if problem.domain == "code"]
    decisions = [new_prompt(problem, "stage 2 begins with every code prompt") for problem in code]
    decisions += [_carried(row) for row in last]
    first_version = read_plan(run, MATH, epoch).last_version
    publish_plan(run, MATH_AND_CODE, 0, decisions, first_version=first_version, selector="transition")


def _carried(decision: dict[str, Any]) -> dict[str, Any]:
    """What stage 1 decided about a prompt last, as stage 2's first decision about it."""
    columns = ("prompt_id", "domain", "difficulty", "keep", "bucket", "graded", "correct", "pass_rate")
    told = "kept" if decision["keep"] else "dropped"
    return {column: decision[column] for column in columns} | {"reason": f"{told} by stage 1: {decision['reason']}"}
