"""The beginning of a run: its problems, its base policy, and the first epoch's prompts."""

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.plan import new_prompt, publish_plan, read_problems
from flows.policies import publish_row
from flows.problems import run_problems
from flows.progress import announce
from flows.runs import Run
from flows.stages import MATH
from flows.working import working
from srpo_core.seeds import derive_seed
from storage.files import publish_directory, temporary_directory


@flow(name="prepare", flow_run_name="{run} · prepare")
def prepare(store: str, run: str) -> None:
    """Write the run's problems, policy version 0 and the plan of its first epoch, where they are missing."""
    with working(store, run, "prepare") as the_run:
        write_problems(the_run)
        write_base_policy(the_run)
        plan_first_epoch(the_run)


@task(name="write problems", cache_policy=NO_CACHE)
def write_problems(run: Run) -> None:
    """Training and held-out problems, which have no content in common. Once written, no data set is read again."""
    if run.history.has("prompts", stage=0, epoch=0):
        return
    train, heldout = run_problems(run.settings, announce)
    rows = [
        {
            "prompt_id": problem.id,
            "domain": problem.domain,
            "difficulty": problem.difficulty,
            "question": problem.question,
            "answer": problem.answer,
            "source": problem.source,
            "split": split,
        }
        for split, problems in (("train", train), ("heldout", heldout))
        for problem in problems
    ]
    run.history.publish("prompts", rows, stage=0, epoch=0)
    announce(f"{len(train)} training problems, {len(heldout)} held out")


@task(name="write base policy", cache_policy=NO_CACHE)
def write_base_policy(run: Run) -> None:
    """Policy version 0: the base with an optimizer that has seen nothing."""
    from srpo_core.policy.sources import policy_directory  # takes torch, which the orchestrator does not need
    from srpo_core.policy.trainer import Trainer
    from srpo_core.rollout.agreement import require_agreement

    settings = run.settings
    if not run.policy(0).is_dir():
        scratch_root = run.history.tmp_root
        with temporary_directory(scratch_root) as scratch, temporary_directory(scratch_root) as directory:
            model = policy_directory(settings.policy.model, scratch, revision=settings.policy.revision)
            announce(f"base policy: {settings.policy.model}" + (f", from {model}" if model != scratch else ""))
            require_agreement(model)
            trainer = Trainer(
                model,
                settings.update,
                temperature=settings.rollout.temperature,
                adapter_seed=derive_seed(settings.seed, "adapter"),
            )
            trainer.save(directory)
            publish_directory(directory, run.policy(0))
    publish_row(run, 0, stage=0, epoch=0, step=0)


@task(name="plan first epoch", cache_policy=NO_CACHE)
def plan_first_epoch(run: Run) -> None:
    """Stage 1 begins with every math problem."""
    math = [problem for problem in read_problems(run, "train") if problem.domain == "math"]
    decisions = [new_prompt(problem, "stage 1 begins with every math prompt") for problem in math]
    publish_plan(run, MATH, 0, decisions, first_version=0, selector="prepare")
