"""Updates that would not be finite: what is told of them, and when they end the run."""

from typing import TYPE_CHECKING

import pyarrow as pa

from flows.metrics import publish_metrics
from flows.plan import EpochPlan
from flows.progress import announce
from flows.runs import Run, RunError
from srpo_core.policy.errors import NotFiniteError

if TYPE_CHECKING:
    from srpo_core.policy.checkpoints import Progress

_SHOWN = 64  # rollouts in the log; all of them are in the metrics


def report_not_finite(
    run: Run, plan: EpochPlan, step: int, error: NotFiniteError, rows: pa.Table, progress: "Progress"
) -> None:
    """Tell the log and the metrics which tensors were not finite and which rollouts they came with.

    `rows` are those of the batch, `progress` that of the policy before the update. Metrics: how many numbers of each
    tensor, `not_finite/tensor/NAME`, and 1 for each rollout, `not_finite/rollout/PROMPT/SAMPLE`. Raises RunError
    when it was one too many in a row.
    """
    version = progress.version + 1
    chosen = rows.select(["prompt_id", "sample"]).take(error.rows).to_pylist()
    rollouts = [f"{row['prompt_id']}/{row['sample']}" for row in chosen]
    values = {f"not_finite/tensor/{name}": float(count) for name, count in error.tensors.items()}
    values |= {f"not_finite/rollout/{rollout}": 1.0 for rollout in rollouts}
    where = {"stage": plan.stage, "epoch": plan.epoch, "step": step, "policy_version": version}
    publish_metrics(run, "update", values, **where, file="not-finite")
    more = f" and {len(rollouts) - _SHOWN} more" if len(rollouts) > _SHOWN else ""
    announce(
        f"stage {plan.stage} · epoch {plan.epoch} · step {step + 1:2d}/{plan.steps} · "
        f"the update to version {version} is left out, {error}: {', '.join(rollouts[:_SHOWN])}{more}"
    )
    limit = run.settings.update.not_finite_limit
    if progress.left_out + 1 >= limit:
        raise RunError(
            f"{progress.left_out + 1} updates in a row were not finite (update.not_finite_limit), the last with "
            f"{', '.join(list(error.tensors)[:3])}. Version {progress.version} is the last that was published, and its "
            "weights are good; `srpo sql` finds the rollouts under not_finite/ in the metrics. Lower "
            "update.learning_rate or update.max_grad_norm and start another run"
        )
