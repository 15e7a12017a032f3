"""Every selector in SQL against the same rule in plain Python, and what must hold of each."""

import random
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from selector_reference import RULES, SETTINGS, Past, decided, pasts, posterior

from storage import selectors
from storage.selectors import decide, load_rule, selector_names

SOME = settings(max_examples=20, deadline=None)
FLOORED = sorted(set(RULES) - {"history", "pass_rate"})


def kept(past: Past, name: str) -> dict[str, bool]:
    rows = decide(load_rule(name), past.sources(), past.parameters).to_pylist()
    return {row["prompt_id"]: row["keep"] for row in rows}


def test_every_selector_has_a_reference() -> None:
    assert sorted(RULES) == selector_names()


@pytest.mark.parametrize("name", RULES)
@SOME
@given(past=pasts())
def test_a_rule_decides_as_its_reference_does_about_every_candidate_once(name: str, past: Past) -> None:
    answer = RULES[name](past)
    rows = decide(load_rule(name), past.sources(), past.parameters).to_pylist()
    assert [row["prompt_id"] for row in rows] == sorted(past.sampled)
    figures = {row["prompt_id"]: (row["graded"], row["correct"]) for row in rows}
    assert {row["prompt_id"]: row["keep"] for row in rows} == decided(past, answer, figures)
    for row in rows:
        assert_figures(name, past, row)
        weight = answer[row["prompt_id"]][0]
        assert row["weight"] == (None if isinstance(weight, bool) else pytest.approx(weight, abs=1e-12))
    if name in FLOORED:
        assert sum(row["keep"] for row in rows) >= min(past.prompts_per_step, len(past.sampled))


def assert_figures(name: str, past: Past, row: dict[str, Any]) -> None:
    """The figures are the last visit's, the reason tells the floor, and what showed nothing is not solved."""
    prompt = row["prompt_id"]
    visits = past.visits(prompt)
    assert row["pass_rate"] == (row["correct"] / row["graded"] if row["graded"] else None)
    assert row["brought_back"] == row["reason"].startswith("warning, floor:")
    if name not in ("history", "pass_rate"):  # those tell the visit that decided, which may not be the last
        newest = (visits or [(None, 0, 0)])[0]
        assert (row["bucket"], row["graded"], row["correct"]) == (past.bucket(prompt), *newest[1:])
    if name == "thompson":
        assert "Beta({:.2f}, {:.2f})".format(*posterior(past, prompt)) in row["reason"]
    if name == "pass_rate" and not row["keep"]:  # the first visit that reached it
        reached = [(g, c) for _, g, c in visits if g and c / g >= past.settings["solved_pass_rate"]]
        assert (row["graded"], row["correct"]) == reached[-1]
    if past.sampled[prompt] and not any(graded for _, graded, _ in visits):
        assert row["bucket"] in ("unvisited", "ungraded")
        assert row["keep"] or name == "thompson"  # which keeps a share of all


@pytest.mark.parametrize("name", RULES)
def test_the_decision_depends_neither_on_threads_nor_on_the_order_of_rows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = random.Random(3)
    prompts = [f"p{i}" for i in range(3000)]
    epochs = [
        ((1, e), {p: order.choice([(0, 0), (8, 0), (8, 3), (8, 8)]) for p in prompts if order.random() < 0.7})
        for e in range(4)
    ]
    past = Past(epochs, dict.fromkeys(prompts, True), SETTINGS, seed=11, prompts_per_step=2500)
    answers = []
    for threads in (1, 2, 5):
        config = {"python_enable_replacements": False, "threads": threads}
        monkeypatch.setattr(selectors, "in_memory", lambda config=config: duckdb.connect(config=config))
        tables = past.tables()
        for table, rows in tables.items():
            shuffled = list(range(rows.num_rows))
            order.shuffle(shuffled)
            tables[table] = rows.take(pa.array(shuffled))
        sources = {table: (lambda rows=rows: rows) for table, rows in tables.items()}
        answers.append(decide(load_rule(name), sources, past.parameters))
    assert answers[0].equals(answers[1])
    assert answers[0].equals(answers[2])


@pytest.mark.parametrize("name", ["greso", "thompson", "pools"])
def test_another_seed_decides_otherwise(name: str) -> None:
    shown = {f"p{i}": (8, [0, 8, 4][i % 3]) for i in range(300)}
    past = Past([((1, 0), shown)], dict.fromkeys(shown, True))
    again = Past([((1, 0), shown)], dict.fromkeys(shown, True), seed=8)
    assert kept(past, name) == kept(past, name)
    assert kept(past, name) != kept(again, name)


@pytest.mark.parametrize("name", ["history_readmit", "zero_variance"])
@pytest.mark.parametrize(("after", "sure", "right"), [(1, 32, True), (3, 1, True), (2, 20, False)])
def test_a_dropped_prompt_comes_back_within_the_epochs_set(name: str, after: int, sure: int, right: bool) -> None:
    solved = right or name == "history_readmit"
    own = SETTINGS | {"readmit_after": after, "sure_rollouts": sure}
    epochs: list[tuple[tuple[int, int], dict[str, tuple[int, int]]]] = []
    seen_last, sampled = 0, {"x": True, "filler": True}
    for epoch in range(9):
        shown = {"filler": (8, 4)} | ({"x": (8, 8 if solved else 0)} if sampled["x"] else {})
        epochs.append(((1, epoch), shown))
        seen_last = epoch if sampled["x"] else seen_last
        assert epoch - seen_last <= after
        sampled = kept(Past(epochs, sampled, own, prompts_per_step=1), name)
    assert sum("x" in shown for _, shown in epochs) >= 9 // (after + 1)


@pytest.mark.parametrize(
    ("sure", "visited"),
    [
        (32, [0, 2, 5, 9, 14, 19]),  # 8, 16, 24, 32 rollouts, all correct: out for 1, 2, 3, 4 epochs, then 4 always
        (20, [0, 3, 8, 13, 18]),  # 8 rollouts: 1.6 epochs, which are 2
    ],
)
def test_the_surer_a_solved_prompt_is_the_longer_it_sits_out(sure: int, visited: list[int]) -> None:
    own = SETTINGS | {"readmit_after": 4, "sure_rollouts": sure}
    epochs: list[tuple[tuple[int, int], dict[str, tuple[int, int]]]] = []
    sampled = {"x": True, "filler": True}
    for epoch in range(20):
        shown = {"filler": (8, 4)} | ({"x": (8, 8)} if sampled["x"] else {})
        epochs.append(((1, epoch), shown))
        sampled = kept(Past(epochs, sampled, own, prompts_per_step=1), "history_readmit")
    assert [epoch for (_, epoch), shown in epochs if "x" in shown] == visited


def test_a_prompt_dropped_in_stage_one_comes_back_in_stage_two() -> None:
    epochs = [((1, 0), {"x": (8, 8)}), ((1, 1), {"filler": (8, 4)}), ((2, 0), {"filler": (8, 4)})]
    own = SETTINGS | {"readmit_after": 2, "sure_rollouts": 1}
    assert not kept(Past(epochs[:2], {"x": False, "filler": True}, own, prompts_per_step=1), "history_readmit")["x"]
    assert kept(Past(epochs, {"x": False, "filler": True}, own, prompts_per_step=1), "history_readmit")["x"]


def test_the_floor_brings_back_the_least_solved_first() -> None:
    shown = {"a": (8, 8), "b": (2, 2), "c": (32, 32), "d": (8, 0)}
    past = Past([((1, 0), shown)], dict.fromkeys(shown, True), prompts_per_step=2)
    assert kept(past, "history_readmit") == {"a": False, "b": True, "c": False, "d": True}
    assert kept(past, "zero_variance") == {"a": False, "b": True, "c": False, "d": True}
    assert kept(past, "history") == {"a": False, "b": False, "c": False, "d": True}
