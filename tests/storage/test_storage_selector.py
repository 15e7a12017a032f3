"""The paper's rule in SQL against the same rule in plain Python."""

import itertools

import pytest
from history_samples import decision, shard_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.files import StoreError
from storage.history import RunHistory

STAGES = itertools.count(1)
RELAXED = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ACCURACY = st.sampled_from([None, 0.0, 0.5, 1 - 1e-3, 1 - 1e-7, 1.0])
Groups = dict[str, list[float | None]]


def decided(accuracies: list[float | None] | None) -> tuple[bool, str, int, int]:
    """keep, bucket, graded, correct: the paper's rule."""
    if accuracies is None:
        return True, "unvisited", 0, 0
    graded = [a for a in accuracies if a is not None]
    correct = sum(a >= 1 - 1e-6 for a in graded)
    if not graded:
        return True, "ungraded", 0, 0
    if correct == len(graded):
        return False, "easy", len(graded), correct
    return True, "mixed" if correct else "hard", len(graded), correct


def sample(history: RunHistory, stage: int, epoch: int, steps: list[Groups]) -> None:
    for step, groups in enumerate(steps):
        if groups:
            history.write_shard(stage, epoch, step, 0, shard_rows(list(groups), list(groups.values())))
            history.commit_step(stage, epoch, step, 1)


@RELAXED
@given(
    candidates=st.dictionaries(st.sampled_from("abcdefgh"), st.booleans(), min_size=1),
    steps=st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.lists(ACCURACY, min_size=1, max_size=5), max_size=5), max_size=3
    ),
)
def test_history_rule_agrees_with_plain_python(
    history: RunHistory, candidates: dict[str, bool], steps: list[Groups]
) -> None:
    stage = next(STAGES)
    history.publish("decisions", [decision(p, keep=keep) for p, keep in candidates.items()], stage=stage, epoch=3)
    # Another epoch, stage and an uncommitted step say the opposite of everything: they must not matter.
    sample(history, stage, 2, [{p: [1.0] for p in candidates}])
    history.write_shard(stage, 3, 99, 0, shard_rows(list(candidates), [[1.0]] * len(candidates)))
    sample(history, stage, 3, steps)
    visits: Groups = {}
    for groups in steps:
        for prompt, accuracies in groups.items():
            visits.setdefault(prompt, []).extend(accuracies)
    rows = history.select("history", stage=stage, epoch=3).to_pylist()
    assert [row["prompt_id"] for row in rows] == sorted(p for p, keep in candidates.items() if keep)
    for row in rows:
        expected = decided(visits.get(row["prompt_id"]))
        assert (row["keep"], row["bucket"], row["graded"], row["correct"]) == expected
        assert row["pass_rate"] == (expected[3] / expected[2] if expected[2] else None)
        assert row["reason"]


def run(history: RunHistory, groups: Groups, unvisited: str = "") -> dict[str, dict[str, object]]:
    history.publish("decisions", [decision(p) for p in (*groups, *unvisited)], stage=1, epoch=0)
    sample(history, 1, 0, [groups])
    return {row["prompt_id"]: row for row in history.select("history", stage=1, epoch=0).to_pylist()}


def test_all_solved_drops_all(history: RunHistory) -> None:
    rows = run(history, {"a": [1.0] * 8, "b": [1.0] * 8})
    assert [row["keep"] for row in rows.values()] == [False, False]
    assert rows["a"]["reason"] == "all 8 correct: too easy"


def test_none_solved_keeps_all(history: RunHistory) -> None:
    rows = run(history, {"a": [0.0] * 8, "b": [0.5] * 8})
    assert [row["keep"] for row in rows.values()] == [True, True]
    assert rows["b"]["reason"] == "none of 8 correct: too hard yet, stays"


def test_unvisited_and_ungraded_prompts_stay(history: RunHistory) -> None:
    rows = run(history, {"a": [None, None], "b": [None, 1.0]}, unvisited="z")
    assert {p: (row["keep"], row["bucket"]) for p, row in rows.items()} == {
        "a": (True, "ungraded"), "b": (False, "easy"), "z": (True, "unvisited"),
    }  # fmt: skip
    assert rows["a"]["reason"] == "none of 2 rollouts graded: stays"
    assert rows["b"]["reason"] == "all 1 correct: too easy"


def test_equal_accuracy_decides_though_the_format_differs(history: RunHistory) -> None:
    rows = run(history, {"a": [1.0, 1.0], "b": [1.0, 0.0]})
    rewards = history.sql("SELECT count(DISTINCT reward) AS n FROM rollouts WHERE prompt_id = 'a'")
    assert rewards["n"].to_pylist() == [2]
    assert not rows["a"]["keep"]
    assert rows["b"]["reason"] == "1 of 2 correct: informative"


def test_an_epoch_without_steps_keeps_every_prompt(history: RunHistory) -> None:
    assert run(history, {}, unvisited="ab")["a"]["bucket"] == "unvisited"


def test_selecting_reads_only_the_epochs_own_files(history: RunHistory) -> None:
    run(history, {"a": [1.0]})
    history.publish("decisions", [decision("a")], stage=1, epoch=7)
    sample(history, 1, 7, [{"a": [0.0]}])
    for path in history.directory.glob("*/run=r1/stage=1/epoch=0/step-*.parquet"):
        path.write_bytes(b"not read")
    for path in history.directory.glob("data/**/*.parquet"):
        path.write_bytes(b"not read")
    assert history.select("history", stage=1, epoch=7)["bucket"].to_pylist() == ["hard"]


def test_unknown_selector_and_unplanned_epoch_are_named(history: RunHistory) -> None:
    with pytest.raises(StoreError, match="no selector 'luck': the selectors are history"):
        history.select("luck", stage=1, epoch=0)
    with pytest.raises(StoreError, match="epoch 5 has no decisions"):
        history.select("history", stage=1, epoch=5)
