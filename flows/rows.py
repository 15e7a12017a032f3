"""Rollouts as rows of the history, and rows of the history as the batch of an update."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from srpo_core.dynamic_sampling import is_informative
from srpo_core.policy.batch import RolloutBatch
from srpo_core.rewards.grade import Grade
from srpo_core.rollout.rollouts import Rollout
from storage.tables import SHARDS

GradedRollout = tuple[Rollout, Grade]


def rollout_row(rollout: Rollout, grade: Grade, *, policy_version: int) -> dict[str, Any]:
    """The columns that the rollouts of training and of evaluation have in common."""
    return {
        "prompt_id": rollout.problem.id,
        "domain": rollout.problem.domain,
        "difficulty": rollout.problem.difficulty,
        "sample": rollout.sample,
        "seed": rollout.seed,
        "policy_version": policy_version,
        "completion": rollout.text,
        "completion_tokens": len(rollout.completion.token_ids),
        "finish_reason": rollout.completion.finish_reason,
        "verdict": grade.verdict,
        "accuracy": grade.accuracy,
        "tests_passed": grade.tests_passed,
        "format": grade.format,
        "code_in_math": grade.code_in_math,
        "mixed_language": grade.mixed_language,
        "overlong": grade.overlong,
        "reward": grade.reward,
    }


def shard_table(graded: Sequence[GradedRollout], *, first_position: int, policy_version: int) -> pa.Table:
    """Wide rows of one shard, but for `used`; the first stands at `first_position` of its step."""
    rows = []
    for place, (rollout, grade) in enumerate(graded):
        row = rollout_row(rollout, grade, policy_version=policy_version)
        row["position"] = first_position + place
        row["prompt"] = rollout.prompt
        row["prompt_tokens"] = len(rollout.prompt_token_ids)
        rows.append(row)
    scalars = {name: pa.array([row[name] for row in rows], SHARDS.schema.field(name).type) for name in rows[0]}
    lists: dict[str, list[npt.NDArray[Any]]] = {
        "prompt_token_ids": [np.asarray(rollout.prompt_token_ids, dtype=np.int32) for rollout, _ in graded],
        "token_ids": [rollout.completion.token_ids for rollout, _ in graded],
        "logprobs": [rollout.completion.logprobs for rollout, _ in graded],
    }
    return pa.table(scalars | {name: _list_array(values, name) for name, values in lists.items()})


def _list_array(values: Sequence[npt.NDArray[Any]], column: str) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    list_type = SHARDS.schema.field(column).type
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(values)), type=list_type)


def informative_groups(rows: pa.Table) -> dict[str, bool]:
    """By prompt, in the order of the rows: whether the graded accuracies of its group differ."""
    groups: dict[str, list[float | None]] = {}
    for prompt_id, accuracy in zip(rows["prompt_id"].to_pylist(), rows["accuracy"].to_pylist(), strict=True):
        groups.setdefault(prompt_id, []).append(accuracy)
    return {prompt_id: is_informative(accuracies) for prompt_id, accuracies in groups.items()}


def mark_used(rows: pa.Table, used: Mapping[str, bool]) -> pa.Table:
    """The rows of a shard with what is known once they are graded: whether the update uses them, by prompt."""
    return rows.append_column("used", pa.array([used[prompt] for prompt in rows["prompt_id"].to_pylist()], pa.bool_()))


def used_rows(rows: pa.Table) -> pa.Table:
    """The rollouts of a step that its update uses, perhaps none."""
    if pc.all(rows["used"]).as_py():  # a filter copies every token; without dynamic sampling there is no need
        return rows
    return rows.filter(pc.field("used"))


def training_batch(rows: pa.Table) -> RolloutBatch:
    """Rollouts as their update wants them; wide rows, groups by prompt."""
    prompt_ids = rows["prompt_id"].combine_chunks().dictionary_encode()
    return RolloutBatch(
        prompts=list(_ragged(rows, "prompt_token_ids")),
        completions=list(_ragged(rows, "token_ids")),
        logprobs=list(_ragged(rows, "logprobs")),
        rewards=rows["reward"].to_numpy().astype(np.float64),  # null: NaN, ungraded
        groups=prompt_ids.indices.to_numpy().astype(np.int64),
        truncated=np.array([reason == "length" for reason in rows["finish_reason"].to_pylist()], dtype=bool),
    )


def _ragged(rows: pa.Table, column: str) -> Iterator[npt.NDArray[Any]]:
    lists = rows[column].combine_chunks()
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return (values[start:end] for start, end in pairwise(offsets))
