"""The run: preparation, two stages of epochs with evaluations between them, and the report.

Every stage flow looks first at what is committed and does what is missing, so starting a run and resuming it are the
same. What is complete is not started again. How stages are carried out, in this process or by deployments, is no
matter of the run's: it may go on in another mode than it began in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import Flow, State, flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from flows.deployed import cancel_stages, run_deployed
from flows.evaluate import evaluate
from flows.execution import Mode, Stage, run_inline, run_tags, tagged
from flows.machines import record_machine
from flows.metrics import Stopwatch, publish_metrics
from flows.plan import EpochPlan, is_planned, read_plan, read_problems
from flows.policies import is_published
from flows.prefect_server import end_threads_at_exit
from flows.prepare import prepare
from flows.request import RunRequest, requested_run
from flows.resample import resample
from flows.rollout import rollout
from flows.runs import Run
from flows.stages import MATH, MATH_AND_CODE
from flows.stale import close_stale_flow_runs
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
    run, again = _begin(request)
    try:
        # What was taken for dead may still be alive, and even end well.
        with run.locked(Patience("run") if again else None), tagged(run):
            run.history.create()  # its catalog has absolute paths, and the run may have been moved
            run.history.sweep()
            close_stale_flow_runs(run, mode)
            _Training(run, run_inline if mode == "inline" else run_deployed).train()
            write_report(run)
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
    run = requested_run(request, again=again)
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, tags={*context.flow_run.tags, *run_tags(run)})
    return run, again


@dataclass(frozen=True)
class _Training:
    """What a run does, in its order; `carry_out` does the stages that it is given at the same time."""

    run: Run
    carry_out: Callable[..., None]

    def train(self) -> None:
        """The whole run."""
        run = self.run
        self.carry_out(self._stage(prepare, partial(is_planned, run, MATH, 0)))
        record_machine(run, read_problems(run, "train") + read_problems(run, "heldout"))
        self._evaluate(stage=0, after=0, version=0)
        last, decision = self._train_stage(MATH)
        if decision == "finish":
            return
        self.carry_out(self._stage(transition, partial(is_planned, run, MATH_AND_CODE, 0), epoch=last))
        self._train_stage(MATH_AND_CODE)

    def _train_stage(self, stage: int) -> tuple[int, str]:
        """Train epoch after epoch until the stage ends; gives its last epoch, and whether a stage follows: `switch`."""
        epoch = 0
        while True:
            stopwatch = Stopwatch()
            with stopwatch.measure("wall"):
                decision = self._run_epoch(read_plan(self.run, stage, epoch))
            publish_metrics(self.run, "epoch", stopwatch.seconds, stage=stage, epoch=epoch, step=0, policy_version=0)
            if decision != "continue":
                return epoch, decision
            epoch += 1

    def _run_epoch(self, plan: EpochPlan) -> str:
        """Rollouts and updates together, then resampling, the decision about the stage, and an evaluation when due."""
        run, stage, epoch = self.run, plan.stage, plan.epoch
        self.carry_out(
            self._stage(rollout, partial(_is_sampled, run, plan), stage=stage, epoch=epoch),
            self._stage(update, partial(is_published, run, plan, plan.last_version), stage=stage, epoch=epoch),
        )
        self.carry_out(self._stage(resample, partial(is_planned, run, stage, epoch + 1), stage=stage, epoch=epoch))
        decision = decide_stage(run, stage, epoch)
        if decision != "continue" or (epoch + 1) % run.settings.evaluation.every_epochs == 0:
            self._evaluate(stage=stage, after=epoch + 1, version=plan.last_version)
        return decision

    def _evaluate(self, *, stage: int, after: int, version: int) -> None:
        done = partial(self.run.history.has, "evaluations", stage=stage, epoch=after)
        self.carry_out(self._stage(evaluate, done, stage=stage, after=after, version=version))

    def _stage(self, which: Flow[Any, Any], is_done: Callable[[], bool], **place: int) -> Stage:
        return Stage(which, self.run, place, is_done)


def _is_sampled(run: Run, plan: EpochPlan) -> bool:
    return all(run.history.is_committed(plan.stage, plan.epoch, step) for step in range(len(plan.steps)))
