"""When a stage ends: the SQL against numpy and plain Python, thresholds at their very edge, and what must not count."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from history_samples import decision, shard_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.history import RunHistory
from storage.readonly import open_readonly

STAGES = itertools.count(10)
RELAXED = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Groups = dict[str, Sequence[float | None]]
graded_steps = st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4), max_size=8)


def plan(
    history: RunHistory, stage: int, epoch: int, prompts: dict[str, int | None], dropped: str = "", steps: int = 0
) -> None:
    """An epoch of `prompts`, each with the step that samples it."""
    rows = [decision(p, step=step) for p, step in prompts.items()] + [decision(p, keep=False) for p in dropped]
    history.publish("decisions", rows, stage=stage, epoch=epoch)
    if prompts:
        row = {"prompts": len(prompts), "steps": steps, "first_version": 0, "selector": "history"}
        history.publish("epochs", [row], stage=stage, epoch=epoch)


def step(history: RunHistory, stage: int, epoch: int, number: int, groups: Groups, used: bool = True) -> None:
    rows = shard_rows(list(groups), list(groups.values())).drop("used")
    history.write_shard(stage, epoch, number, 0, rows.append_column("used", pa.array([used] * rows.num_rows)))
    history.commit_step(stage, epoch, number, 1)


def stage_of(history: RunHistory, steps: Sequence[Sequence[float | None]], left: int = 4) -> int:
    """A stage of one epoch, one prompt a step; `left` prompts stay for the next."""
    stage = next(STAGES)
    prompts = {f"p{n}": n for n in range(len(steps))}
    plan(history, stage, 0, prompts or {"p": 0}, steps=len(steps))
    for n, accuracies in enumerate(steps):
        step(history, stage, 0, n, {f"p{n}": accuracies})
    plan(history, stage, 1, {f"p{n}": 0 for n in range(left)}, dropped="z", steps=1)
    return stage


def decide(history: RunHistory, stage: int, epoch: int = 0, **given: float) -> dict[str, Any]:
    thresholds = {"window_steps": 3, "min_gain": 0.01, "max_steps": 100, "min_prompts": 1} | given
    told = ", ".join(f"{name} := {value}" for name, value in thresholds.items())
    (row,) = history.sql(f"FROM stage_decision({stage}, {epoch}, {told})").to_pylist()
    return dict(row)


def first_stage(history: RunHistory, values: Sequence[float | None]) -> None:
    """Stage 1, one step per accuracy: only it can be flat."""
    plan(history, 1, 0, {f"p{n}": n for n in range(len(values))}, steps=len(values))
    for n, value in enumerate(values):
        step(history, 1, 0, n, {f"p{n}": [value]})
    plan(history, 1, 1, {f"p{n}": 0 for n in range(len(values))}, steps=1)


@RELAXED
@given(graded_steps, st.integers(2, 6))
def test_the_slope_is_that_of_a_line_through_the_last_steps(
    history: RunHistory, steps: list[list[float]], window: int
) -> None:
    row = decide(history, stage_of(history, steps), window_steps=window)
    assert (row["steps"], row["window"], row["prompts"]) == (len(steps), window, 4)
    if len(steps) < window:
        assert row["slope"] is row["gain"] is None
        assert f"fewer than the {window} of a window" in row["reason"]
    else:
        means = [np.mean(accuracies) for accuracies in steps[-window:]]
        expected = np.polyfit(np.arange(window), means, 1)[0]
        assert row["slope"] == pytest.approx(expected, abs=1e-12)
        assert row["gain"] == pytest.approx(expected * window, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "decision", "told"),
    [
        ([0.5, 0.5, 0.5, 0.5], "switch", "flat: +0.000 over 4 steps, less than 0.01"),
        ([0.75, 0.5, 0.25, 0.0], "switch", "flat: -1.000 over 4 steps"),
        ([0.0, 0.25, 0.5, 0.75], "continue", "4 of at most 100 steps; accuracy +1.000 over 4 steps"),
        ([0.5, 0.5, 0.5], "continue", "3 of at most 100 steps; fewer than the 4 of a window"),
        ([1.0, 1.0, 0.0, 0.25, 0.5, 0.75], "continue", "accuracy +1.000 over 4 steps"),
        ([None, 0.0, None, 0.25, 0.5, None, 0.75, None], "continue", "accuracy +0.615 over 4 steps"),
        ([0.5, None, None, 0.5, 0.5, None], "continue", "fewer than the 4 of a window"),
        ([None, None, None, None], "continue", "fewer than the 4 of a window"),
    ],
)
def test_stage_one_ends_when_it_is_flat_or_falls_and_ungraded_steps_decide_nothing(
    history: RunHistory, values: list[float | None], decision: str, told: str
) -> None:
    first_stage(history, values)
    row = decide(history, 1, window_steps=4)
    assert row["decision"] == decision
    assert told in row["reason"]


def test_the_thresholds_are_exact(history: RunHistory) -> None:
    first_stage(history, [0.0, 0.25, 0.5, 0.75])
    assert decide(history, 1, window_steps=4, min_gain=1)["decision"] == "continue"
    assert decide(history, 1, window_steps=4, min_gain=1.0000001)["decision"] == "switch"
    assert decide(history, 1, max_steps=5)["decision"] == "continue"
    assert "limit of 4 is reached (4 steps)" in decide(history, 1, max_steps=4)["reason"]
    assert decide(history, 1, min_prompts=4)["decision"] == "continue"
    assert decide(history, 1, min_prompts=5)["reason"] == "4 prompts are left to learn from, fewer than 5"


def test_too_few_prompts_decide_before_the_limit_and_the_limit_before_flatness(history: RunHistory) -> None:
    first_stage(history, [0.5, 0.5, 0.5])
    assert "prompts are left" in decide(history, 1, max_steps=1, min_prompts=9)["reason"]
    assert "step limit" in decide(history, 1, max_steps=1)["reason"]
    assert "flat" in decide(history, 1)["reason"]


def test_only_stage_one_ends_by_flatness_and_the_others_end_the_run(history: RunHistory) -> None:
    stage = stage_of(history, [[0.5]] * 4)
    assert decide(history, stage)["decision"] == "continue"
    assert decide(history, stage, max_steps=4)["decision"] == "finish"


@pytest.mark.parametrize(("trained", "decision"), [("math", "finish"), ("code", "switch")])
def test_a_run_that_trains_on_math_alone_ends_with_stage_one(history: RunHistory, trained: str, decision: str) -> None:
    problem = {"difficulty": 0, "question": "q", "answer": "a", "source": "s"}
    told = [("a", "math", "train"), ("b", trained, "train"), ("c", "code", "heldout")]
    rows = [{**problem, "prompt_id": key, "domain": domain, "split": split} for key, domain, split in told]
    history.publish("prompts", rows, stage=0, epoch=0)
    first_stage(history, [0.5] * 4)
    assert decide(history, 1, max_steps=9)["decision"] == decision


def test_an_exhausted_stage_ends(history: RunHistory) -> None:
    row = decide(history, stage_of(history, [[1.0]], left=0))
    assert (row["decision"], row["prompts"]) == ("finish", 0)


def test_an_epoch_that_is_not_resampled_yet_has_no_decision(history: RunHistory) -> None:
    plan(history, 1, 0, {"a": 0}, steps=1)
    step(history, 1, 0, 0, {"a": [1.0]})
    assert history.sql("FROM stage_decision(1, 0, 2, 0.01, 9, 1)").num_rows == 0


def test_a_past_decision_is_made_again_as_it_was(history: RunHistory) -> None:
    first_stage(history, [0.0, 0.25, 0.5, 0.75])
    before = decide(history, 1, window_steps=4)
    step(history, 1, 1, 0, {f"p{n}": [0.0] for n in range(4)})
    plan(history, 1, 2, {"p0": 0}, steps=1)
    assert decide(history, 1, window_steps=4) == before
    assert decide(history, 1, epoch=1, window_steps=4)["gain"] != before["gain"]


def progress(history: RunHistory) -> list[float | None]:
    values: list[float | None] = history.sql("SELECT accuracy FROM stage_progress ORDER BY stage, n")[
        "accuracy"
    ].to_pylist()
    return values


def test_prompts_left_out_of_an_epoch_count_as_at_their_last_visit(history: RunHistory) -> None:
    plan(history, 1, 0, dict.fromkeys("abcde", 0), steps=1)
    step(history, 1, 0, 0, {"a": [1.0, 1.0], "b": [0.0, 0.0], "c": [0.0, 1.0], "d": [None, None], "e": [0.0, 1.0]})
    plan(history, 1, 1, dict.fromkeys("ce", 0), dropped="abd", steps=1)
    step(history, 1, 1, 0, {"c": [1.0, 1.0], "e": [0.0, 0.0]})
    plan(history, 1, 2, dict.fromkeys("be", 0), dropped="acd", steps=1)  # b is back; c stands at its second visit
    step(history, 1, 2, 0, {"b": [0.0, 1.0], "e": [0.0, 1.0]})
    assert progress(history) == [0.5, (1 + 0 + 0.5 * 2) / 4, (1 + 1 + 0.5 * 2) / 4]


def test_dropped_prompts_of_the_papers_rule_count_as_solved(history: RunHistory) -> None:
    plan(history, 1, 0, dict.fromkeys("abcd", 0), steps=1)
    step(history, 1, 0, 0, {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [0.0, 1.0], "d": [0.0, 0.0]})
    plan(history, 1, 1, dict.fromkeys("cd", 0), steps=1)  # the dropped are no candidates again
    step(history, 1, 1, 0, {"c": [0.0, 1.0], "d": [0.0, 0.0]})
    assert progress(history) == [0.625, 0.625]


def test_refills_and_what_was_used_do_not_move_the_progress(history: RunHistory) -> None:
    plan(history, 1, 0, {"a": 0, "b": 0, "c": 1, "d": 1}, steps=2)
    step(history, 1, 0, 0, {"a": [0.0, 1.0], "b": [1.0, 1.0], "c": [0.0, 1.0], "d": [0.0, 0.0]})
    step(history, 1, 0, 1, {"c": [0.0, 1.0], "d": [1.0, 1.0]}, used=False)
    assert progress(history) == [0.75, 0.75]


def test_a_prompt_that_came_later_does_not_change_what_is_measured(history: RunHistory) -> None:
    plan(history, 2, 0, {"a": 0, "b": 0}, dropped="z", steps=1)
    step(history, 2, 0, 0, {"a": [0.0, 1.0], "b": [0.0, 1.0]})
    plan(history, 2, 1, {"a": 0, "b": 0, "z": 0}, steps=1)
    step(history, 2, 1, 0, {"a": [0.0, 1.0], "b": [0.0, 1.0], "z": [1.0, 1.0]})
    assert progress(history) == [0.5, 0.5]


def test_every_run_of_a_store_has_a_decision_of_its_own(history: RunHistory) -> None:
    other = RunHistory(history.directory.parent / "r2", "r2")
    other.create()
    first_stage(history, [0.5, 0.5, 0.5])
    first_stage(other, [0.0, 0.5, 1.0])
    with open_readonly(history.directory.parent) as store:
        rows = store.query("FROM stage_decision(1, 0, 3, 0.01, 9, 1)").to_pylist()
    assert [(row["run"], row["decision"]) for row in rows] == [("r1", "switch"), ("r2", "continue")]
