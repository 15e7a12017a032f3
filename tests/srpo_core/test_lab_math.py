"""Properties of the math part."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.problems.lab.world import draw_chain
from srpo_core.rewards.lab.math import read_integer, same_integer, true_running_thought

STEPS = [("+", 1), ("-", 3)]


@given(st.integers(-(10**17), 10**17))
def test_an_integer_equals_itself_and_not_its_neighbour(number: int) -> None:
    assert same_integer(f" {number} ", str(number))
    assert not same_integer(str(number + 1), str(number))


@pytest.mark.parametrize("text", ["", "4.0", "4 4", "four", "1e3", "٤", "0x4", "4_0", "9" * 19, "--4", "4\n5"])
def test_what_is_no_plain_integer_is_none(text: str) -> None:
    assert read_integer(text) is None


def test_signs_and_leading_zeros_do_not_matter() -> None:
    assert same_integer("+04", "4")
    assert same_integer("-0", "0")


def test_a_problem_without_integer_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="must be an integer"):
        same_integer("4", "x")


@given(st.integers(1, 8), st.integers())
def test_the_worlds_own_thought_is_true(n: int, seed: int) -> None:
    chain = draw_chain("math", n, random.Random(seed))
    operations = [(step.symbol, step.operand) for step in chain.operations]
    assert true_running_thought(chain.thought(), chain.start[0], operations, chain.answer())


def test_spaces_in_the_thought_do_not_matter() -> None:
    assert true_running_thought(" 6 + 1 = 7 - 3 = 4 ", 6, STEPS, "4")


@pytest.mark.parametrize(
    "thought",
    [
        "",
        "4",
        "5+1=6-3=3",  # another start
        "6+1=8-3=4",  # a false link, then the right end
        "6+1=7",  # an operation is missing
        "6-3=3+1=4",  # another order
        "6+2=8-4=4",  # other operations, right end
        "6+1=7-3=4+0=4",  # one too many
        "6+1=7-3=4!",  # something behind
        "so 6+1=7-3=4",
        "6+1=7,-3=4",
        "6+1=7-3=",
        "+1=7-3=4",
    ],
)
def test_any_fault_makes_the_thought_false(thought: str) -> None:
    assert not true_running_thought(thought, 6, STEPS, "4")


def test_a_true_thought_must_end_in_the_answer() -> None:
    assert not true_running_thought("6+1=7-3=4", 6, STEPS, "5")


@given(st.text(alphabet="0123456789+-*=, x"))
def test_only_one_thought_is_true(thought: str) -> None:
    canonical = "".join(thought.split()) == "6+1=7-3=4"
    assert true_running_thought(thought, 6, STEPS, "4") == canonical
