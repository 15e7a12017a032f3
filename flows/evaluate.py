"""Evaluation: what a policy of the run does on the held-out problems, into the history."""

from typing import TYPE_CHECKING

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from flows.artifacts import publish_table
from flows.faults import STEP_RETRIES
from flows.guards import Guards
from flows.heldout import HELDOUT, sample_heldout, summarise
from flows.loading import load_version, wait_for_version, wait_until_published
from flows.metrics import Stopwatch, publish_metrics
from flows.plan import BASE, EpochPlan, read_plan, read_problems
from flows.progress import Progress, announce_evaluation, evaluated
from flows.rows import rollout_row
from flows.runs import Run
from flows.together import StageStoppedError
from flows.working import Partner, working

if TYPE_CHECKING:
    from flows.sampler import Sampler


@flow(name="evaluate", flow_run_name="{run} · stage {stage} · after {after} epochs · evaluate")
def evaluate(store: str, run: str, stage: int, after: int, version: int) -> State | None:
    """Evaluate policy `version`, the one after `after` epochs of the stage (stage 0: the base), when it is there."""
    from flows.sampler import Sampler  # takes torch, which the orchestrator and the worker do not need

    try:
        with (
            working(store, run, "evaluate", partner=Partner("update", {"stage": stage, "epoch": after - 1})) as the_run,
            Sampler(the_run.settings, the_run.directory) as sampler,
        ):
            plan = read_plan(the_run, stage, after - 1) if stage > 0 else BASE
            wait_for_version(sampler, the_run, plan, version)
            Guards(the_run).check()
            evaluate_policy(the_run, sampler, plan, after, version)
            summary = the_run.history.read("evaluations", stage=stage, epoch=after, name="rows").to_pylist()
            announce_evaluation(stage, after, summary)
            columns = ("domain", "difficulty", "n", "pass_at_1", "low", "high", "mean_tokens", "truncated")
            told = f"Held-out pass@1 of policy version {version}: {evaluated(stage, after)}"
            publish_table(the_run, "evaluation", summary, columns, told)
    except StageStoppedError as stopped:
        return Cancelled(message=str(stopped))
    return None


@task(name="evaluate policy", cache_policy=NO_CACHE, **STEP_RETRIES)
def evaluate_policy(run: Run, sampler: "Sampler", plan: EpochPlan, after: int, version: int) -> None:
    """Sample, grade and record; the summary is published last and makes the evaluation complete."""
    settings, history, stopwatch, stage = run.settings, run.history, Stopwatch(), plan.stage
    problems = read_problems(run, "heldout")
    total = len(problems) * settings.evaluation.samples
    progress = Progress(run.name, "evaluate", total=total, unit="samples", place=evaluated(stage, after))
    with stopwatch.measure("load"):  # the first one starts the server, where there is one
        load_version(sampler, run, plan, version)
    progress.reach(0)
    graded = sample_heldout(sampler, settings, problems, stopwatch, progress.advance)
    proof = sampler.proof()  # which a server that is found dead when it may rest takes along
    sampler.rest()
    wait_until_published(run, plan, version)
    with stopwatch.measure("store"):
        rows = [rollout_row(rollout, grade, policy_version=version) | {"suite": HELDOUT} for rollout, grade in graded]
        history.publish("evaluation_rollouts", rows, stage=stage, epoch=after)
    values = proof | stopwatch.seconds
    publish_metrics(run, "evaluate", values, stage=stage, epoch=after, step=0, policy_version=version)
    estimates = summarise(rows, settings.evaluation.samples)
    summary = [{**row, "suite": HELDOUT, "after": after, "policy_version": version} for row in estimates]
    history.publish("evaluations", summary, stage=stage, epoch=after)
    progress.reach(total)
