"""What makes a run's updates: a trainer in this process, or a group of processes that each hold a share."""

from contextlib import ExitStack
from pathlib import Path

from flows.policies import checked_policy
from flows.runs import Run
from srpo_core.policy.ranks.group import RankGroup
from srpo_core.policy.trainer import Trainer
from storage.files import temporary_directory

RANKS_LOG = "ranks.log"


def open_trainer(run: Run, version: int, held: ExitStack) -> Trainer | RankGroup:
    """A trainer at a published version, as the settings want it; closing `held` ends the processes that it has.

    Raises RunError for weights that are not what was published, PolicyError when the trainer cannot begin.
    """
    settings = run.settings
    checkpoint = checked_policy(run, version)
    # With LoRA the version's own weights are merged: what stands still is the base, which is never pruned.
    base = checkpoint if settings.update.lora.rank is None else checked_policy(run, 0)
    named = settings.update.kl.reference
    reference = run.policy(0) if named is None else Path(named)
    same_code = settings.engine.kind == "transformers"
    if settings.update.parallel.size == 1:
        return Trainer(
            checkpoint,
            settings.update,
            temperature=settings.rollout.temperature,
            longest=settings.rollout.max_new_tokens,
            same_code=same_code,
            reference=reference,
            device=settings.policy.device,
            base=base,
        )
    group = RankGroup(
        checkpoint,
        settings.update,
        temperature=settings.rollout.temperature,
        longest=settings.rollout.max_new_tokens,
        same_code=same_code,
        reference=reference,
        device=settings.policy.device,
        threads=settings.policy.threads,
        base=base,
        exchange=held.enter_context(temporary_directory(run.history.tmp_root)),
        log=run.directory / RANKS_LOG,
    )
    return held.enter_context(group)
