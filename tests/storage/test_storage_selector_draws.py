"""Random numbers in SQL: the right distributions, and selectors that honour their probabilities."""

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import duckdb
import numpy as np
import pytest
from selector_reference import SETTINGS, Past, beta, uniform

from storage.selectors import decide, load_rule

MACROS = (files("storage") / "sql" / "selection.sql").read_text().partition("-- One row per candidate")[0]
N = 20_000


@pytest.fixture(scope="module")
def macros() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(MACROS)
    return connection


def decided(past: Past, name: str) -> list[dict[str, Any]]:
    return decide(load_rule(name), past.sources(), past.parameters).to_pylist()


def drawn(macros: duckdb.DuckDBPyConnection, expression: str, n: int = N) -> Sequence[float]:
    rows = macros.execute(f"SELECT {expression} FROM range({n}) AS r(i) ORDER BY i").fetchall()
    return np.array([row[0] for row in rows])


def test_uniform_numbers_are_uniform_and_fixed_by_seed_and_key(macros: duckdb.DuckDBPyConnection) -> None:
    found = drawn(macros, "uniform(7, 'p' || i)")
    assert found.tolist() == [uniform(7, f"p{i}") for i in range(N)]
    assert kolmogorov(found, np.linspace(0, 1, 100_001)) < 1.95 / math.sqrt(N)
    assert 0 <= found.min() < found.max() < 1
    assert drawn(macros, "uniform(7, 'a b')", 1)[0] == 0.209059573707725


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 9.0), (2.5, 1.0), (17.25, 4.5), (300.0, 300.0)])
def test_beta_draws_have_the_beta_distribution(macros: duckdb.DuckDBPyConnection, a: float, b: float) -> None:
    found = drawn(macros, f"beta_draw({a}, {b}, 7, 'p' || i)")
    reference = np.sort(np.random.default_rng(0).beta(a, b, 1_000_000))
    # 0.1 % of true draws would be further away than this (the reference's own error included).
    assert kolmogorov(found, reference) < 1.95 * math.sqrt(1 / N + 1 / len(reference))
    assert found[:50] == pytest.approx([beta(a, b, 7, f"p{i}") for i in range(50)], rel=1e-12)


def kolmogorov(found: Sequence[float], reference: Sequence[float]) -> float:
    """Largest distance of two empirical distributions; `reference` is sorted."""
    found = np.sort(found)
    places = np.searchsorted(reference, found) / len(reference)
    steps = np.arange(len(found) + 1) / len(found)
    return float(max(np.abs(places - steps[1:]).max(), np.abs(places - steps[:-1]).max()))


def test_pools_are_sampled_with_their_probabilities() -> None:
    shown = {f"{side}{i}": (8, correct) for side, correct in (("e", 8), ("m", 3), ("h", 0)) for i in range(4000)}
    past = Past([((1, 0), shown)], dict.fromkeys(shown, True))
    kept = [row["prompt_id"] for row in decided(past, "pools") if row["keep"]]
    for side, weight in (("e", 0.1), ("m", 0.9), ("h", 0.5)):
        share = sum(prompt.startswith(side) for prompt in kept) / 4000
        assert abs(share - weight) < 4.5 * math.sqrt(weight * (1 - weight) / 4000)


@pytest.mark.parametrize(("side", "correct"), [("easy", 8), ("hard", 0)])
def test_greso_samples_a_prompt_less_with_every_visit_without_variance(side: str, correct: int) -> None:
    own = SETTINGS | {"explore_step": 0.0}
    shown = {f"p{i}": (8, correct) for i in range(4000)}
    for times in (1, 2, 3):
        past = Past([((1, e), shown) for e in range(times)], dict.fromkeys(shown, True), own)
        rows = decided(past, "greso")
        share = sum(row["keep"] for row in rows) / 4000
        assert abs(share - 0.5**times) < 4.5 * math.sqrt(0.25 / 4000)
        assert {row["weight"] for row in rows} == {0.5**times}
        assert {row["bucket"] for row in rows} == {side}


def test_greso_explores_less_while_a_side_is_above_its_target_and_more_below() -> None:
    shown = {"e1": (8, 8), "e2": (8, 8), "e3": (8, 8), "h": (8, 0)}
    past = Past([((1, e), shown) for e in range(5)], dict.fromkeys(shown, True), SETTINGS)
    weights = {row["prompt_id"]: row["weight"] for row in decided(past, "greso")}
    assert weights["e1"] == 0.01  # 0.25 ** 5 is less
    assert weights["h"] == pytest.approx(0.75**5)


def test_thompson_prefers_what_is_uncertain_or_near_the_target() -> None:
    shown = {f"{side}{i}": (16, correct) for side, correct in (("e", 16), ("m", 8), ("h", 0)) for i in range(300)}
    past = Past([((1, 0), shown)], dict.fromkeys([*shown, *[f"u{i}" for i in range(300)]], True), prompts_per_step=1)
    past.settings["keep_share"] = 0.35
    rows = decided(past, "thompson")
    kept = {side: sum(row["keep"] for row in rows if row["prompt_id"][0] == side) / 300 for side in "emhu"}
    assert kept["m"] > 0.85
    assert 0.2 < kept["u"] < 0.6
    assert max(kept["e"], kept["h"]) < 0.02
    assert sum(row["keep"] for row in rows) == 420


def test_thompson_forgets_with_time_what_it_does_not_visit() -> None:
    old = ((1, 0), {f"e{i}": (16, 16) for i in range(200)})
    since = [((1, e), {"filler": (16, 8)}) for e in range(1, 9)]
    for epochs, comes_back in (([old], 0.05), ([old, *since], 0.3)):
        past = Past(list(epochs), {**dict.fromkeys(old[1], True), "filler": True}, prompts_per_step=1)
        past.settings["keep_share"] = 1.0
        rows = decided(past, "thompson")
        near = [abs(float(row["reason"].split("drew ")[1].split(",")[0]) - 0.5) < 0.25 for row in rows]
        assert (sum(near) / len(near) > comes_back) == (len(epochs) > 1)
