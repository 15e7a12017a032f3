"""From rows of the history to the batch of an update."""

from typing import Any

import pyarrow as pa
import pytest

from flows.rows import informative_groups, mark_used, training_batch, used_rows
from srpo_core.policy.trainer import Trainer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.settings.update import UpdateSettings

GROUPS: dict[str, list[float | None]] = {"b": [1.0, 0.0], "a": [1.0, 1.0], "c": [None, 0.0], "d": [0.0, 1.0]}


@pytest.fixture
def rows() -> pa.Table:
    """Two rollouts of each prompt, of as many tokens as their place tells; `used` is left to be marked."""
    made: list[dict[str, Any]] = []
    for prompt, accuracies in GROUPS.items():
        for accuracy in accuracies:
            tokens = list(range(len(made) + 1))
            grades = {"accuracy": accuracy, "reward": accuracy, "finish_reason": "stop"}
            texts = {"prompt_token_ids": [7], "token_ids": tokens, "logprobs": [-0.5] * len(tokens)}
            made.append({"prompt_id": prompt, **grades, **texts})
    return pa.concat_tables([pa.Table.from_pylist(made[:4]), pa.Table.from_pylist(made[4:])])  # as two shards


def test_groups_are_informative_when_their_graded_accuracies_differ(rows: pa.Table) -> None:
    assert informative_groups(rows) == {"b": True, "a": False, "c": False, "d": True}
    assert list(informative_groups(rows)) == list(GROUPS)


@pytest.mark.parametrize("used", ["bd", "a", "dc", "bacd"])
def test_a_batch_has_the_used_rollouts_alone_whole_and_in_order(rows: pa.Table, used: str) -> None:
    batch = training_batch(used_rows(mark_used(rows, {prompt: prompt in used for prompt in GROUPS})))
    places = [2 * n + m for n, prompt in enumerate(GROUPS) for m in (0, 1) if prompt in used]
    assert batch.completion_lengths.tolist() == [place + 1 for place in places]
    assert [completion.tolist() for completion in batch.completions] == [list(range(place + 1)) for place in places]
    assert [len(logprobs) for logprobs in batch.logprobs] == [place + 1 for place in places]
    assert len(batch.prompts) == len(batch.truncated) == len(places)
    assert [batch.groups[n] == batch.groups[n + 1] for n in range(0, len(places), 2)] == [True] * len(used)
    assert len(set(batch.groups.tolist())) == len(used)


def test_a_step_of_which_nothing_is_used_is_an_empty_batch_that_makes_a_version(rows: pa.Table) -> None:
    batch = training_batch(used_rows(mark_used(rows, dict.fromkeys(GROUPS, False))))
    assert len(batch.rewards) == len(batch.prompts) == len(batch.groups) == batch.lengths.sum() == 0
    trainer = Trainer(base_policy_dir(), UpdateSettings(), temperature=1.0)
    metrics = trainer.update(batch, seed=0)
    assert trainer.progress.version == 1
    assert metrics["num_tokens"] == metrics["optimizer_steps"] == metrics["loss"] == 0
