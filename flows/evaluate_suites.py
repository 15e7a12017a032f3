"""`srpo eval` as a flow: a task per suite, each of shards that are committed one by one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.engines import engine_directory
from flows.evaluations import Evaluation, Subject, begin_evaluation, find_subject, load_suites
from flows.faults import STEP_RETRIES
from flows.heldout import sample_heldout, summarise
from flows.metrics import Stopwatch
from flows.progress import Progress, announce
from flows.rows import rollout_row
from flows.runs import WrongUseError
from flows.sampler import Sampler
from srpo_core.problems.problem import Problem

ROLLOUTS_A_SHARD = 256  # at most so many are lost when an evaluation is interrupted, and a problem's at least


@flow(name="evaluate suites", flow_run_name="{model} · evaluate")
def evaluate_suites(
    store: str,
    model: str,
    suites: list[str],
    settings: str | None = None,
    changes: list[str] | None = None,
    limit: int | None = None,
) -> str:
    """Evaluate a policy on suites, where that was not done; gives the name of its history in the store.

    `model` is RUN or RUN@VERSION of the store or a source as in `policy.model`, `changes` are settings such as
    `evaluation.samples=32`, `limit` is how many problems of a suite are asked. Raises WrongUseError and what else the
    policy, the settings and the suites may be wrong with.
    """
    place = Path(store)
    subject = find_subject(place, model, Path(settings) if settings is not None else None, changes or [])
    problems = load_suites(suites, subject, limit)
    evaluation = begin_evaluation(place, subject, limit)
    missing = missing_suites(evaluation, problems)
    for suite in problems:
        if suite not in missing:
            announce(f"{suite}: evaluated before, in {evaluation.name}")
    if missing:
        _evaluate(evaluation, subject, {suite: problems[suite] for suite in missing})
    return evaluation.name


def missing_suites(evaluation: Evaluation, suites: Mapping[str, Sequence[Problem]]) -> list[str]:
    """The suites that were not evaluated to their end. Raises WrongUseError where one had other problems before."""
    return [suite for suite, problems in suites.items() if not _is_there(evaluation, suite, problems)]


def _is_there(evaluation: Evaluation, suite: str, problems: Sequence[Problem]) -> bool:
    history = evaluation.history
    if not history.has("prompts", stage=0, epoch=0, name=suite):
        return False
    begun = history.read("prompts", stage=0, epoch=0, name=suite)["prompt_id"].to_pylist()
    if begun != [problem.id for problem in problems]:
        raise WrongUseError(
            f"suite {suite} had other problems when {evaluation.name} began: give its file another name, or remove "
            f"{history.directory}"
        )
    return history.has("evaluations", stage=0, epoch=0, name=suite)


def _evaluate(evaluation: Evaluation, subject: Subject, suites: dict[str, list[Problem]]) -> None:
    with (
        TemporaryDirectory(prefix="srpo-policy-") as scratch,
        engine_directory() as engine,
        Sampler(subject.settings, engine) as sampler,
    ):
        for problems in suites.values():
            sampler.check(problems)
        sampler.load(subject.directory(Path(scratch)))
        total = sum(map(len, suites.values())) * subject.settings.evaluation.samples
        progress = Progress(evaluation.name, "evaluate", total=total, unit="samples", place=", ".join(suites))
        for suite, problems in suites.items():
            evaluate_suite(evaluation, subject, sampler, progress, suite, problems)


@task(name="evaluate suite", task_run_name="{suite}", cache_policy=NO_CACHE, **STEP_RETRIES)
def evaluate_suite(
    evaluation: Evaluation,
    subject: Subject,
    sampler: Sampler,
    progress: Progress,
    suite: str,
    problems: list[Problem],
) -> None:
    """Sample what is missing, shard by shard; the suite's summary is published last and makes it complete."""
    history, settings = evaluation.history, subject.settings
    history.publish("prompts", [_prompt(problem) for problem in problems], stage=0, epoch=0, name=suite)
    size = max(1, ROLLOUTS_A_SHARD // settings.evaluation.samples)
    rows: list[dict[str, Any]] = []
    before = progress.done
    for shard, start in enumerate(range(0, len(problems), size)):
        name = f"{suite}.{shard:05d}"
        if not history.has("evaluation_rollouts", stage=0, epoch=0, name=name):
            graded = sample_heldout(sampler, settings, problems[start : start + size], Stopwatch(), progress.advance)
            new = [{**rollout_row(r, grade, policy_version=subject.version), "suite": suite} for r, grade in graded]
            history.publish("evaluation_rollouts", new, stage=0, epoch=0, name=name)
        rows += history.read("evaluation_rollouts", stage=0, epoch=0, name=name).to_pylist()
        progress.reach(before + len(rows))
        announce(f"{suite}: {min(start + size, len(problems))} of {len(problems)} problems")
    summary = summarise(rows, settings.evaluation.samples)
    added = {"suite": suite, "after": 0, "policy_version": subject.version}
    history.publish("evaluations", [{**row, **added} for row in summary], stage=0, epoch=0, name=suite)


def _prompt(problem: Problem) -> dict[str, Any]:
    fields = ("domain", "difficulty", "question", "answer", "source")
    return {"prompt_id": problem.id, **{field: getattr(problem, field) for field in fields}, "split": "heldout"}
