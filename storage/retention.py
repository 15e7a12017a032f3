"""Retention: the shards of epochs that nobody needs any more are removed, their narrow rows are kept for ever.

A row in the table `pruned` is published before the first shard goes, so that whoever misses one is told why. A kill
leaves the row and some of the shards; pruning again removes the rest.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from storage.compaction import finished_epochs
from storage.files import StoreError
from storage.history import SHARDS_KEY, RunHistory
from storage.tables import parse_parquet


@dataclass(frozen=True)
class PrunedEpoch:
    """What pruning an epoch removes: its shards' keys, with how many rollouts and bytes were committed in them."""

    stage: int
    epoch: int
    steps: int
    shards: tuple[str, ...]
    rollouts: int
    bytes: int


def epochs_to_prune(history: RunHistory, keep: int) -> list[tuple[int, int]]:
    """(stage, epoch) of all epochs with committed steps but the newest `keep`, in order; planned ones do not count.

    Raises StoreError for a negative `keep`.
    """
    if keep < 0:
        raise StoreError(f"{keep} epochs cannot be kept: give a number from 0.")
    query = "SELECT DISTINCT stage, epoch FROM rollouts ORDER BY stage, epoch"
    sampled = [(row["stage"], row["epoch"]) for row in history.sql(query).to_pylist()]
    return sampled[: max(0, len(sampled) - keep)]


def plan_pruning(history: RunHistory, epochs: Sequence[tuple[int, int]]) -> list[PrunedEpoch]:
    """What pruning these (stage, epoch) would remove; epochs whose shards are gone already are left out.

    Raises StoreError for an epoch that is not finished, or was not learned from: training still needs its shards.
    """
    finished = finished_epochs(history)
    learned = {(row["stage"], row["epoch"], row["step"]) for row in history.read("policies").to_pylist()}
    plans = []
    for stage, epoch in epochs:
        if (stage, epoch) not in finished:
            raise StoreError(
                f"Epoch {epoch} of stage {stage} is not finished in {history.store.root}, so training still needs its "
                "shards. Nothing was pruned: choose finished epochs."
            )
        plan = _plan(history, stage, epoch)
        if waiting := [step for step in range(plan.steps) if (stage, epoch, step) not in learned]:
            raise StoreError(
                f"Steps {waiting} of epoch {epoch}, stage {stage} in {history.store.root} have no published policy "
                "yet, so training still needs their shards. Nothing was pruned: resume the run first."
            )
        if set(plan.shards) & set(history.store.keys(f"data/run={history.run}/stage={stage}/epoch={epoch}")):
            plans.append(plan)
    return plans


def prune(history: RunHistory, plan: PrunedEpoch) -> None:
    """Record that the epoch is pruned, then remove its shards. Raises StoreError."""
    row = {"steps": plan.steps, "shards": len(plan.shards), "rollouts": plan.rollouts, "bytes": plan.bytes}
    history.publish("pruned", [row], stage=plan.stage, epoch=plan.epoch)
    for key in plan.shards:
        history.store.remove(key)


def _plan(history: RunHistory, stage: int, epoch: int) -> PrunedEpoch:
    shards: dict[str, dict[str, int]] = {}
    keys = history.store.keys(f"index/run={history.run}/stage={stage}/epoch={epoch}")
    for key in keys:
        index = parse_parquet(history.store.read(key), history.store.url(key))
        shards |= json.loads(index.schema.metadata[SHARDS_KEY])
    rollouts, size = (sum(facts[name] for facts in shards.values()) for name in ("rows", "bytes"))
    return PrunedEpoch(stage, epoch, len(keys), tuple(shards), rollouts, size)
