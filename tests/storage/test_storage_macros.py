"""Macros: pass@k against exact fractions, and lookups of texts by what they hold and whose they are."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from history_samples import shard_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.catalog import connect
from storage.history import RunHistory
from storage.queries import in_memory

TEXT = (Path(__file__).parents[2] / "storage" / "sql" / "macros.sql").read_text(encoding="utf-8")


def value(expression: str, *parameters: object) -> Any:
    with in_memory() as connection:
        connection.execute(TEXT)
        return connection.execute(f"SELECT {expression}", list(parameters)).fetchall()[0][0]


def exact(n: int, c: int, k: int) -> Fraction:
    """1 - C(n-c, k) / C(n, k), as the product over k draws without replacement."""
    none = Fraction(1)
    for drawn in range(min(k, n - c + 1)):
        none *= Fraction(n - c - drawn, n - drawn)
    return 1 - none


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pass_at_k_is_the_product_form_to_1e_12(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3000))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert abs(Fraction(value("pass_at_k(?, ?, ?)", n, c, k)) - exact(n, c, k)) < Fraction(1, 10**12)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(10**6, 1, 10**6 - 1), (10**6, 700, 900), (10**6, 3, 64), (10**5, 99_999, 1)]
)
def test_pass_at_k_keeps_its_digits_when_n_is_large(n: int, c: int, k: int) -> None:
    assert abs(Fraction(value("pass_at_k(?, ?, ?)", n, c, k)) - exact(n, c, k)) < Fraction(1, 10**12)


@pytest.mark.parametrize(
    ("n", "c", "k"),
    [(4, 2, 5), (4, 5, 1), (4, -1, 1), (4, 2, 0), (None, 1, 1), (4, None, 1), (4, 2, None), (4, None, 9)],
)
def test_pass_at_k_of_what_cannot_be_or_is_not_known_is_null(n: int | None, c: int | None, k: int | None) -> None:
    assert value("pass_at_k(?::BIGINT, ?::BIGINT, ?::BIGINT)", n, c, k) is None


def test_pass_at_k_takes_the_sums_that_queries_give() -> None:
    assert value("pass_at_k(sum(8), sum(2), 1) FROM range(3)") == pytest.approx(0.25, abs=1e-15)


def test_mentions_counts_whole_words_and_takes_them_literally() -> None:
    words = "['wait', 'let me', '3.5']"
    assert value(f"mentions('Wait, await. WAIT! Let me see: 3.5 is not 345; let mean', {words})") == 4
    assert value(f"mentions('', {words})") == 0
    assert value(f"mentions(NULL, {words})") is None


@pytest.fixture
def told(history: RunHistory) -> RunHistory:
    """Two epochs of a and b; the texts are 'answer <prompt> <sample> <accuracy>'."""
    for epoch, groups in enumerate([[[0.0, 1.0], [0.5, None]], [[1.0, 0.0], [None, None]]]):
        history.write_shard(1, epoch, 0, 0, shard_rows(["a", "b"], groups))
        history.commit_step(1, epoch, 0, 1)
    return history


def test_search_finds_texts_in_any_case_as_they_are(told: RunHistory) -> None:
    found = told.sql("SELECT prompt_id, sample, found_in, excerpt FROM search('ANSWER a', 1, 0)").to_pylist()
    assert [(row["prompt_id"], row["sample"], row["found_in"]) for row in found] == [
        ("a", 0, "completion"), ("a", 1, "completion"),
    ]  # fmt: skip
    assert found[0]["excerpt"] == "answer a 0 0.0"
    assert told.sql("FROM search('solve b', 1, 1)")["found_in"].to_pylist() == ["prompt", "prompt"]
    for nowhere in ("search('answer%', 1, 0)", "search('answer_a', 1, 0)", "search('answer', 2, 0)"):
        assert told.sql(f"FROM {nowhere}").num_rows == 0


def test_search_opens_the_files_of_its_epoch_alone(told: RunHistory) -> None:
    for path in told.directory.glob("*/run=r1/stage=1/epoch=0/**/*.parquet"):
        path.write_bytes(b"not read")
    assert told.sql("FROM search('answer', 1, 1)").num_rows == 4


def test_best_and_worst_are_the_first_of_the_extreme_rewards(told: RunHistory) -> None:
    rows = told.sql("FROM best_and_worst('a')").to_pylist()
    assert [(r["which"], r["epoch"], r["sample"], r["completion"]) for r in rows] == [
        ("best", 0, 1, "answer a 1 1.0"), ("worst", 0, 0, "answer a 0 0.0"),
    ]  # fmt: skip
    only = told.sql("FROM best_and_worst('b')").to_pylist()
    assert [(r["which"], r["accuracy"]) for r in only] == [("best", 0.5), ("worst", 0.5)]
    assert told.sql("FROM best_and_worst('nobody')").num_rows == 0


@pytest.mark.parametrize("query", ["FROM best_and_worst('a')", "FROM rollouts_of('a')"])
def test_lookups_of_a_prompt_open_the_shards_of_its_steps_alone(told: RunHistory, query: str) -> None:
    for step in range(1, 5):
        told.write_shard(1, 1, step, 0, shard_rows(["c"], [[1.0]]))
        told.commit_step(1, 1, step, 1)
    for path in told.directory.glob("data/run=r1/stage=1/epoch=1/step=[1-4]/*.parquet"):
        path.write_bytes(b"not read")
    with connect(told.directory) as views:
        assert views.sql(query).to_arrow_table().num_rows > 0
