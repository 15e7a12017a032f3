"""When a stage ends, and the step from stage 1 (math) to stage 2 (math and code)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.plan import new_prompt, publish_plan, read_plan, read_problems
from flows.progress import announce
from flows.runs import Run, open_run
from flows.stages import MATH, MATH_AND_CODE

# The accuracy that a stage has reached, step by step, over all prompts it began with. History Resampling makes the
# rollouts' own accuracy fall by dropping what is solved: a dropped prompt counts as solved here.
_PROGRESS = """
    SELECT regr_slope(accuracy, n) AS slope, count(*) AS steps
    FROM (SELECT accuracy, n FROM stage_progress WHERE stage = $stage ORDER BY n DESC LIMIT $window)
"""


@dataclass(frozen=True)
class StageDecision:
    """Whether a stage goes on after an epoch, and the figures that this rests on; `slope` in accuracy per step."""

    decision: str
    reason: str
    slope: float | None
    gain: float | None
    window: int
    steps: int


def decide_stage(run: Run, stage: int, epoch: int) -> str:
    """Record whether the stage goes on after `epoch`; gives `continue`, `switch` or `finish`.

    A stage ends when the prompts that are left do not fill a step (a policy that goes on learning from a handful
    forgets the rest), at its step limit, and, stage 1, when the accuracy is flat.
    """
    if not run.history.has("transitions", stage=stage, epoch=epoch):
        decision = _decide(run, stage, epoch)
        run.history.publish("transitions", [asdict(decision)], stage=stage, epoch=epoch)
    row = run.history.read("transitions", stage=stage, epoch=epoch, name="rows").to_pylist()[0]
    announce(f"stage {stage} · epoch {epoch} · {row['decision']}: {row['reason']}")
    return str(row["decision"])


def _decide(run: Run, stage: int, epoch: int) -> StageDecision:
    settings = run.settings.stages
    window, min_gain = settings.transition.window, settings.transition.min_gain
    limit = (settings.math if stage == MATH else settings.math_and_code).max_steps
    steps = sum(len(read_plan(run, stage, past).steps) for past in range(epoch + 1))
    fit = run.history.sql(_PROGRESS, {"stage": stage, "window": window}).to_pylist()[0]
    slope = fit["slope"] if fit["steps"] == window else None
    gain = None if slope is None else slope * window
    end = "switch" if stage == MATH else "finish"

    def decided(decision: str, reason: str) -> StageDecision:
        return StageDecision(decision, reason, slope, gain, window, steps)

    decisions = run.history.read("decisions", stage=stage, epoch=epoch + 1, name="rows").to_pylist()
    left, needed = sum(row["keep"] for row in decisions), run.settings.rollout.prompts_per_step
    if left < needed:
        return decided(end, f"{left} prompts are left to learn from, fewer than one step's {needed}")
    if steps >= limit:
        return decided(end, f"the step limit of {limit} is reached ({steps} steps)")
    if stage == MATH and gain is not None and gain < min_gain:
        return decided(end, f"the math accuracy is flat: {gain:+.3f} over {window} steps, less than {min_gain}")
    told = f"accuracy {gain:+.3f} over {window} steps" if gain is not None else f"fewer than the {window} of a window"
    return decided("continue", f"{steps} of at most {limit} steps; {told}")


@flow(name="transition", flow_run_name="{run} · stage 1 to stage 2, after epoch {epoch} · transition")
def transition(store: str, run: str, epoch: int) -> None:
    """Build the first prompt set of stage 2 after the last `epoch` of stage 1."""
    the_run = open_run(Path(store), run)
    build_second_stage(the_run, epoch)
    rows = the_run.history.read("decisions", stage=MATH_AND_CODE, epoch=0, name="rows").to_pylist()
    kept = [row["domain"] for row in rows if row["keep"]]
    announce(f"stage 2 begins with {kept.count('code')} code prompts and {kept.count('math')} math prompts")


@task(name="build second stage", cache_policy=NO_CACHE)
def build_second_stage(run: Run, epoch: int) -> None:
    """Every code prompt, and the math prompts that stage 1 kept after its last epoch."""
    last = run.history.read("decisions", stage=MATH, epoch=epoch + 1, name="rows").to_pylist()
    kept = {row["prompt_id"]: row for row in last if row["keep"]}
    decisions = []
    for problem in read_problems(run, "train"):
        if problem.domain == "code":
            decisions.append(new_prompt(problem, "stage 2 begins with every code prompt"))
        elif problem.id in kept:
            decisions.append(_carried(kept[problem.id], keep=True, reason="kept by stage 1"))
        else:
            decisions.append({**new_prompt(problem, "dropped by stage 1"), "keep": False, "bucket": "easy"})
    first_version = read_plan(run, MATH, epoch).last_version
    publish_plan(run, MATH_AND_CODE, 0, decisions, first_version=first_version, selector="transition")


def _carried(decision: dict[str, Any], *, keep: bool, reason: str) -> dict[str, Any]:
    columns = ("prompt_id", "domain", "difficulty", "bucket", "graded", "correct", "pass_rate")
    return {column: decision[column] for column in columns} | {
        "keep": keep,
        "reason": f"{reason}: {decision['reason']}",
    }
