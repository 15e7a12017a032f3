"""When a stage ends, and the step from stage 1 (math) to stage 2 (math and code)."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.plan import new_prompt, publish_plan, read_plan, read_problems
from flows.progress import announce
from flows.runs import Run
from flows.stages import MATH, MATH_AND_CODE, step_limit
from flows.working import working

# storage/sql/transition.sql tells the rule.
_DECISION = """
    SELECT * EXCLUDE (run)
    FROM stage_decision($stage, $epoch, $window, $min_gain, $max_steps, $min_prompts)
"""


def decide_stage(run: Run, stage: int, epoch: int) -> str:
    """Record whether the stage goes on after `epoch`; gives `continue`, `switch` or `finish`.

    A stage ends when the prompts that are left do not fill a step (a policy that goes on learning from a handful
    forgets the rest), at its step limit, and, stage 1, when the accuracy is flat.
    """
    if not run.history.has("transitions", stage=stage, epoch=epoch):
        decision = run.history.sql(_DECISION, _thresholds(run, stage) | {"stage": stage, "epoch": epoch})
        run.history.publish("transitions", decision, stage=stage, epoch=epoch)
    row = run.history.read("transitions", stage=stage, epoch=epoch, name="rows").to_pylist()[0]
    announce(f"stage {stage} · epoch {epoch} · {row['decision']}: {row['reason']}")
    return str(row["decision"])


def _thresholds(run: Run, stage: int) -> dict[str, float]:
    """What the settings say about the end of a stage, as `stage_decision` takes it."""
    transition = run.settings.stages.transition
    began = run.history.read("epochs", stage=stage, epoch=0, name="rows")["prompts"][0].as_py()
    return {
        "window": transition.window,
        "min_gain": transition.min_gain,
        "max_steps": step_limit(run.settings, stage),
        # A step's worth; of a stage that began with little more or less than one, half of what it began with.
        "min_prompts": min(run.settings.rollout.prompts_per_step, -(-began // 2)),
    }


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
