"""The run: preparation, two stages of epochs with evaluations between them, and the report.

Every stage flow looks first at what is committed and does what is missing, so starting a run and resuming it are the
same. What is complete is not started again. How stages are carried out, in this process or by deployments, is no
matter of the run's: it may go on in another mode than it began in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from prefect import Flow, State, flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from flows.artifacts import wait_until_sent
from flows.changes import publish_changes
from flows.deployed import cancel_stages, run_deployed
from flows.evaluate import evaluate
from flows.execution import Mode, Stage, run_inline, run_tags, tagged
from flows.faults import patiently
from flows.machines import record_machine
from flows.metrics import Stopwatch, publish_metrics
from flows.plan import EpochPlan, is_planned, read_plan, read_problems
from flows.policies import is_published, prune
from flows.prefect_server import end_threads_at_exit
from flows.prepare import prepare
from flows.progress import Progress
from flows.request import RunRequest, requested_run
from flows.resample import resample
from flows.rollout import rollout
from flows.runs import Run
from flows.stages import MATH, MATH_AND_CODE, step_limit
from flows.stale import close_stale_flow_runs
from flows.summaries import show_epoch, show_run, show_store
from flows.together import StageStoppedError
from flows.transition import decide_stage, transition
from flows.update import update
from flows.working import Patience, deployed_flow_run


@flow(name="srpo", flow_run_name="{request.name}", on_cancellation=[cancel_stages])
def srpo(request: RunRequest, mode: Mode = "inline") -> State | None:
    """Train the policy of a run to its end, from wherever it stands, and write its report.

    Args:
        mode: deployments: every stage is a flow run of its own, taken by a worker of its pool, and can be retried
            alone. inline: the worker that takes this run does all of it.
    """
    from flows.report import write_report  # takes a second, which no stage should pay

    end_threads_at_exit()
    if mode == "inline":
        import flows.sampler
        import flows.trainers  # noqa: F401  here, before two stages would at the same time
    run, again = _begin(request)
    try:
        # What was taken for dead may still be alive, and even end well.
        with run.locked(Patience("run") if again else None), tagged(run):
            run.history.create()  # its catalog has absolute paths, and the run may have been moved
            run.history.sweep()
            publish_changes(run)
            close_stale_flow_runs(run, mode)
            show_store(run)
            Training(run, run_inline if mode == "inline" else run_deployed).train()
            write_report(run)
            show_run(run)
        wait_until_sent()
    except (KeyboardInterrupt, TerminationSignal, StageStoppedError) as interruption:
        if isinstance(interruption, TerminationSignal) and deployed_flow_run() is not None:
            raise  # its worker says how it ended, once it has run the hooks
        return Cancelled(message="interrupted; `srpo resume` goes on from what is committed")
    return None


def _begin(request: RunRequest) -> tuple[Run, bool]:
    """The run that was asked for, and whether it is asked again; from here on this flow run can be found as its."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    again = context.flow_run.run_count > 1
    run = requested_run(request, f"flow run {context.flow_run.id}", again=again)
    with get_client(sync_client=True) as client:
        patiently(client.update_flow_run, context.flow_run.id, tags={*context.flow_run.tags, *run_tags(run)})
    return run, again


@dataclass(frozen=True)
class Training:
    """What a run does, in its order; `carry_out` does rows of stages, all rows at the same time."""

    run: Run
    carry_out: Callable[..., None]

    @cached_property
    def progress(self) -> Progress:
        """How far the run has come; its total is the most that the stages' limits allow."""
        total = sum(step_limit(self.run.settings, stage) for stage in (MATH, MATH_AND_CODE))
        return Progress(self.run.name, "run", total=total, unit="steps at most", place="the run")

    def train(self) -> None:
        """The whole run."""
        run = self.run
        self.carry_out([self._stage(prepare, partial(is_planned, run, MATH, 0))])
        record_machine(run, read_problems(run, "train") + read_problems(run, "heldout"))
        self.carry_out([self._evaluation(stage=0, after=0, version=0)])
        last, decision = self.train_stage(MATH)
        if decision == "finish":
            return
        self.carry_out([self._stage(transition, partial(is_planned, run, MATH_AND_CODE, 0), epoch=last)])
        self.train_stage(MATH_AND_CODE)

    def train_stage(self, stage: int) -> tuple[int, str]:
        """Train epoch after epoch until the stage ends; gives its last epoch, and whether a stage follows: `switch`."""
        epoch = 0
        while True:
            stopwatch = Stopwatch()
            with stopwatch.measure("wall"):
                decision = self._run_epoch(read_plan(self.run, stage, epoch))
            publish_metrics(self.run, "epoch", stopwatch.seconds, stage=stage, epoch=epoch, step=0, policy_version=0)
            show_epoch(self.run, stage, epoch)
            self._tell(stage, epoch, decision)
            if decision != "continue":
                return epoch, decision
            epoch += 1

    def _tell(self, stage: int, epoch: int, decision: str) -> None:
        """How far the run has come: the steps done, of those that the stages' limits allow."""
        done = read_plan(self.run, stage, epoch).last_version
        in_stage = done - read_plan(self.run, stage, 0).first_version
        left = max(0, step_limit(self.run.settings, stage) - in_stage) if decision == "continue" else 0
        second = step_limit(self.run.settings, MATH_AND_CODE) if stage == MATH and decision != "finish" else 0
        self.progress.total = done + left + second
        self.progress.reach(done)

    def _run_epoch(self, plan: EpochPlan) -> str:
        """Rollouts beside updates, each with what needs nothing but them, then the decision about the stage.

        A stage's end is evaluated in any case.
        """
        run, stage, epoch = self.run, plan.stage, plan.epoch
        rollouts = self._stage(rollout, partial(_is_sampled, run, plan), stage=stage, epoch=epoch)
        updates = self._stage(update, partial(is_published, run, plan, plan.last_version), stage=stage, epoch=epoch)
        resampling = self._stage(resample, partial(is_planned, run, stage, epoch + 1), stage=stage, epoch=epoch)
        evaluation = self._evaluation(stage=stage, after=epoch + 1, version=plan.last_version)
        due = (epoch + 1) % run.settings.evaluation.every_epochs == 0
        # What samples, in its order, beside what follows from the rollouts: each begins while the other still works.
        self.carry_out([rollouts, *([evaluation] if due else [])], [updates, resampling])
        prune(run, plan.last_version)  # an update that was killed after its last version left this undone
        decision = decide_stage(run, stage, epoch)
        if decision != "continue" and not due:
            self.carry_out([evaluation])
        return decision

    def _evaluation(self, *, stage: int, after: int, version: int) -> Stage:
        done = partial(self.run.history.has, "evaluations", stage=stage, epoch=after)
        return self._stage(evaluate, done, stage=stage, after=after, version=version)

    def _stage(self, which: Flow[Any, Any], is_done: Callable[[], bool], **place: int) -> Stage:
        return Stage(which, self.run, place, is_done)


def _is_sampled(run: Run, plan: EpochPlan) -> bool:
    return all(run.history.is_committed(plan.stage, plan.epoch, step) for step in range(plan.steps))
