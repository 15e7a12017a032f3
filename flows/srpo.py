"""The run: preparation, two stages of epochs with evaluations between them, and the report.

Every stage flow looks first at what is committed and does what is missing, so starting a run and resuming it are the
same. What is complete is not started again.
"""

from pathlib import Path

from prefect import State, flow
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from flows.evaluate import evaluate
from flows.machines import record_machine
from flows.metrics import Stopwatch, publish_metrics
from flows.plan import EpochPlan, read_plan, read_problems
from flows.policies import is_published
from flows.prepare import prepare
from flows.resample import resample
from flows.rollout import rollout
from flows.runs import Run, open_run
from flows.stages import MATH, MATH_AND_CODE
from flows.together import run_together
from flows.transition import decide_stage, transition
from flows.update import update


@flow(name="srpo", flow_run_name="{run}")
def srpo(store: str, run: str) -> State | None:
    """Train the policy of the run to its end, from wherever it stands."""
    try:
        _train(open_run(Path(store), run))
    except (KeyboardInterrupt, TerminationSignal):
        return Cancelled(message="interrupted; `srpo resume` goes on from what is committed")
    return None


def _train(the_run: Run) -> None:
    store, run = str(the_run.store), the_run.name
    if not the_run.history.has("epochs", stage=MATH, epoch=0):  # the last that `prepare` writes
        prepare(store, run)
    record_machine(the_run, read_problems(the_run, "train") + read_problems(the_run, "heldout"))
    _evaluate_once(the_run, stage=0, after=0, version=0)
    for stage in (MATH, MATH_AND_CODE):
        last_epoch, decision = _train_stage(the_run, stage)
        if decision == "finish":
            return
        if not the_run.history.has("epochs", stage=MATH_AND_CODE, epoch=0):
            transition(store, run, last_epoch)


def _train_stage(run: Run, stage: int) -> tuple[int, str]:
    """Train epoch after epoch until the stage ends; gives its last epoch, and whether a stage follows: `switch`."""
    epoch = 0
    while True:
        stopwatch = Stopwatch()
        with stopwatch.measure("wall"):
            decision = _run_epoch(run, read_plan(run, stage, epoch))
        publish_metrics(run, "epoch", stopwatch.seconds, stage=stage, epoch=epoch, step=0, policy_version=0)
        if decision != "continue":
            return epoch, decision
        epoch += 1


def _run_epoch(run: Run, plan: EpochPlan) -> str:
    """Rollouts and updates together, then resampling, the decision about the stage, and an evaluation when due."""
    stage, epoch = plan.stage, plan.epoch
    if not is_published(run, plan, plan.last_version):
        run_together(
            lambda: rollout(str(run.store), run.name, stage, epoch),
            lambda: update(str(run.store), run.name, stage, epoch),
        )
    if not run.history.has("transitions", stage=stage, epoch=epoch):
        resample(str(run.store), run.name, stage, epoch)
    decision = decide_stage(run, stage, epoch)
    if decision != "continue" or (epoch + 1) % run.settings.evaluation.every_epochs == 0:
        _evaluate_once(run, stage=stage, after=epoch + 1, version=plan.last_version)
    return decision


def _evaluate_once(run: Run, *, stage: int, after: int, version: int) -> None:
    if not run.history.has("evaluations", stage=stage, epoch=after):
        evaluate(str(run.store), run.name, stage, after, version)
