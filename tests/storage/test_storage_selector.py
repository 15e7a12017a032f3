"""The paper's rule in SQL against the same rule in plain Python."""

import itertools
from typing import Any

import pytest
from history_samples import decision, shard_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.files import StoreError
from storage.history import RunHistory
from storage.selectors import load_rule, record_visits, select

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


def decide(history: RunHistory, *, stage: int, epoch: int, **settings: float) -> list[dict[str, Any]]:
    """The decisions of the paper's rule after an epoch, from files."""
    record_visits(history, stage=stage, epoch=epoch)
    parameters = {"seed": 7, "prompts_per_step": 4, **settings}
    return select(history, load_rule("history"), parameters, stage=stage, epoch=epoch).to_pylist()


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
    dropped = {"bucket": "easy", "graded": 3, "correct": 3, "pass_rate": 1.0}
    decisions = [decision(p, keep=keep) | ({} if keep else dropped) for p, keep in candidates.items()]
    history.publish("decisions", decisions, stage=stage, epoch=3)
    # Another epoch, stage and an uncommitted step say the opposite of everything: they must not matter.
    sample(history, stage, 2, [{p: [1.0] for p in candidates}])
    record_visits(history, stage=stage, epoch=2)
    history.write_shard(stage, 3, 99, 0, shard_rows(list(candidates), [[1.0]] * len(candidates)))
    steps = [{p: accuracies for p, accuracies in groups.items() if candidates.get(p)} for groups in steps]
    sample(history, stage, 3, steps)
    visits: Groups = {}
    for groups in steps:
        for prompt, accuracies in groups.items():
            visits.setdefault(prompt, []).extend(accuracies)
    rows = decide(history, stage=stage, epoch=3)
    assert [row["prompt_id"] for row in rows] == sorted(candidates)
    for row in rows:
        expected = decided(visits.get(row["prompt_id"])) if candidates[row["prompt_id"]] else (False, "easy", 3, 3)
        assert (row["keep"], row["bucket"], row["graded"], row["correct"]) == expected
        assert row["pass_rate"] == (expected[3] / expected[2] if expected[2] else None)
        assert row["reason"]


def run(history: RunHistory, groups: Groups, unvisited: str = "") -> dict[str, dict[str, object]]:
    history.publish("decisions", [decision(p) for p in (*groups, *unvisited)], stage=1, epoch=0)
    sample(history, 1, 0, [groups])
    return {row["prompt_id"]: row for row in decide(history, stage=1, epoch=0)}


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


def test_the_papers_rule_reads_only_the_epochs_own_files(history: RunHistory) -> None:
    run(history, {"a": [1.0]})
    history.publish("decisions", [decision("a")], stage=1, epoch=7)
    sample(history, 1, 7, [{"a": [0.0]}])
    for name in ("data/**", "index/run=r1/stage=1/epoch=0", "tables/*/run=r1/stage=1/epoch=0"):
        for path in history.directory.glob(f"{name}/*.parquet"):
            path.write_bytes(b"not read")
    assert [row["bucket"] for row in decide(history, stage=1, epoch=7)] == ["hard"]


def test_other_rules_read_the_visits_and_no_index_file_twice(history: RunHistory) -> None:
    run(history, {"a": [1.0], "b": [0.0]})
    history.publish("decisions", [decision("a"), decision("b")], stage=1, epoch=1)
    sample(history, 1, 1, [{"a": [0.0], "b": [1.0]}])
    record_visits(history, stage=1, epoch=1)
    for path in history.directory.glob("index/run=r1/stage=1/*/step-*.parquet"):
        path.write_bytes(b"not read")
    parameters = {"seed": 7, "prompts_per_step": 1, "solved_pass_rate": 0.875}
    rows = select(history, load_rule("pass_rate"), parameters, stage=1, epoch=1).to_pylist()
    assert [(row["prompt_id"], row["keep"], row["reason"]) for row in rows] == [
        ("a", False, "1 of 1 correct one epoch ago: solved, dropped for ever"),
        ("b", False, "1 of 1 correct in this epoch: solved, dropped for ever"),
    ]


def test_a_past_epoch_is_decided_about_as_it_was_then(history: RunHistory) -> None:
    before = run(history, {"a": [1.0, 0.0], "b": [0.0, 0.0]})
    history.publish("decisions", [decision("a"), decision("b")], stage=1, epoch=1)
    sample(history, 1, 1, [{"a": [1.0, 1.0], "b": [1.0, 0.0]}])
    record_visits(history, stage=1, epoch=1)
    assert {row["prompt_id"]: row for row in decide(history, stage=1, epoch=0)} == before
    parameters = {"seed": 7, "prompts_per_step": 1}
    then = select(history, load_rule("uniform"), parameters, stage=1, epoch=0).to_pylist()
    assert [row["bucket"] for row in then] == ["mixed", "hard"]


def test_visits_are_recorded_once_and_tell_what_the_rollouts_showed(history: RunHistory) -> None:
    sample(history, 1, 0, [{"a": [1.0, 0.5, None]}, {"a": [0.0], "b": [None]}])
    assert record_visits(history, stage=1, epoch=0)
    assert not record_visits(history, stage=1, epoch=0)
    rewards = history.sql("SELECT avg(reward) AS mean FROM rollouts WHERE prompt_id = 'a'")["mean"][0].as_py()
    key = {"run": "r1", "stage": 1, "epoch": 0, "mean_tokens": 3.0}
    assert history.read("visits").to_pylist() == [
        {**key, "prompt_id": "a", "rollouts": 4, "graded": 3, "correct": 1, "mean_reward": pytest.approx(rewards)},
        {**key, "prompt_id": "b", "rollouts": 1, "graded": 0, "correct": 0, "mean_reward": None},
    ]


def test_unknown_selector_unplanned_and_unfinished_epochs_are_named(history: RunHistory) -> None:
    with pytest.raises(StoreError, match="no selector 'luck': give one of greso, history"):
        load_rule("luck")
    with pytest.raises(StoreError, match="epoch 5 has no decisions"):
        decide(history, stage=1, epoch=5)
    history.publish("decisions", [decision("a")], stage=1, epoch=6)
    with pytest.raises(StoreError, match="epoch 6 has no visits: it is not finished"):
        select(history, load_rule("history"), {}, stage=1, epoch=6)
