"""What a person sees while a run goes on: one line per event, in the terminal and in the flow run's log."""

import contextlib
from collections.abc import Sequence
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from rich.console import Console

from flows.plan import EpochPlan
from flows.runs import Run

console = Console(highlight=False, soft_wrap=True)


def announce(line: str) -> None:
    """Show a line in the terminal and keep it in the log of the present flow or task run."""
    console.print(line, markup=False)
    with contextlib.suppress(MissingContextError):
        get_run_logger().info(line)


def announce_step(run: Run, plan: EpochPlan, step: int) -> None:
    """What one step's rollouts and update were like."""
    history = run.history
    rows = history.read("metrics", stage=plan.stage, epoch=plan.epoch, name=f"update-{step:06d}").to_pylist()
    rows += history.read("metrics", stage=plan.stage, epoch=plan.epoch, name=f"rollout-{step:06d}").to_pylist()
    values = {row["name"]: row["value"] for row in rows}
    announce(
        f"stage {plan.stage} · epoch {plan.epoch} · step {step + 1:2d}/{len(plan.steps)} · "
        f"reward {values['reward']:.2f} · zero variance {values['frac_reward_zero_std']:4.0%} · "
        f"{values['num_tokens']:,.0f} tokens · length {values['completions/mean_length']:.0f} · "
        f"sampled in {values.get('timing_s/generate', 0):.2f} s, learned in {values['timing_s/update']:.2f} s"
    )


def announce_evaluation(stage: int, after: int, summary: Sequence[dict[str, Any]]) -> None:
    """pass@1 over all problems and by domain."""
    overall = [row for row in summary if row["difficulty"] is None]
    told = ", ".join(
        f"{row['domain'] or 'all'} {row['pass_at_1']:.3f} ({row['low']:.3f}-{row['high']:.3f})" for row in overall
    )
    where = "base policy" if stage == 0 else f"stage {stage} · after epoch {after - 1}"
    announce(f"{where} · held-out pass@1: {told}")


def announce_resampling(stage: int, epoch: int, decisions: Sequence[dict[str, Any]]) -> None:
    """How many prompts were easy, mixed and hard, and how many stay."""
    buckets = [decision["bucket"] for decision in decisions]
    told = ", ".join(f"{buckets.count(bucket)} {bucket}" for bucket in dict.fromkeys(buckets))
    kept = sum(decision["keep"] for decision in decisions)
    floor = sum(decision["reason"].startswith("warning, floor:") for decision in decisions)
    warning = f" (warning: {floor} of them by the floor alone)" if floor else ""
    announce(f"stage {stage} · epoch {epoch} · resampling: {told}; {kept} of {len(decisions)} prompts stay{warning}")
