"""Properties of the code part: a small grammar, an interpreter of ours, bounds on everything."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.problems.lab.world import draw_chain
from srpo_core.rewards.lab.code import (
    MAX_CHARACTERS,
    InvalidExpressionError,
    judge_expression,
    read_expression,
    true_refactoring_thought,
)

leaves = st.one_of(st.integers(0, 99).map(str), st.just("x"))
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=8,
)


@given(expressions, st.integers(0, 9))
def test_values_are_those_of_ordinary_arithmetic(text: str, x: int) -> None:
    # Python's own evaluation is the reference here; the text is made above and holds digits, x and + - * ( ) alone.
    wanted = eval(text, {"__builtins__": {}}, {"x": x})
    if len(text) <= MAX_CHARACTERS and abs(wanted) < 10**6:
        assert read_expression(text)(x) == wanted


@pytest.mark.parametrize("answer", ["4*x+16", " 16 + x*4", "(2*x+8)*2", "x+x+x+x+16", "-(-4*x-16)", "20+4*x-4"])
def test_equal_functions_are_correct_however_written(answer: str) -> None:
    assert judge_expression(answer, "4*x+16") == "correct"


@pytest.mark.parametrize("answer", ["4*x+15", "4*x", "16", "x*x+16", "0"])
def test_another_function_is_wrong(answer: str) -> None:
    assert judge_expression(answer, "4*x+16") == "wrong_answer"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "4*x+",
        "4x+16",
        "4**x",
        "4*y",
        "(4*x+16",
        "4*x+16)",
        "()",
        "4*x+16;0",
        "4/x",
        "x.real",
        "__import__('os').system('true')",
        "lambda: 0",
        "x if x else 0",
        "4*x+16 # ok",
        "４*x",
        "1e9",
        "\0",
    ],
)
def test_text_outside_the_grammar_gets_a_verdict(answer: str) -> None:
    assert judge_expression(answer, "4*x+16") == "invalid_expression"


@given(st.text())
def test_every_text_gets_a_verdict(answer: str) -> None:
    assert judge_expression(answer, "x") in ("correct", "wrong_answer", "invalid_expression")


@pytest.mark.parametrize(
    "answer",
    [
        "(" * 100 + "x" + ")" * 100,
        "-" * 200 + "x",
        "x" + "+x" * 10**6,
        "9" * 10**6,
        "*".join(["999999999999"] * 15),
        "x*" * 127 + "x",
    ],
)
def test_length_nesting_and_magnitude_are_bounded(answer: str) -> None:
    began = time.process_time()
    assert judge_expression(answer, "x") == "invalid_expression"
    assert time.process_time() - began < 0.5


def test_the_message_of_a_broken_expression_says_what_is_wrong() -> None:
    with pytest.raises(InvalidExpressionError, match="parenthesis is not closed"):
        read_expression("(x")
    with pytest.raises(InvalidExpressionError, match="'y' is not of the grammar"):
        read_expression("2*y")


def test_a_problem_whose_own_answer_is_no_expression_is_refused() -> None:
    with pytest.raises(InvalidExpressionError):
        judge_expression("x", "def f(x): return x")


@given(st.integers(1, 8), st.integers())
def test_the_worlds_own_thought_is_true(n: int, seed: int) -> None:
    chain = draw_chain("code", n, random.Random(seed))
    operations = [(step.symbol, step.operand) for step in chain.operations]
    slope, intercept = chain.start
    assert true_refactoring_thought(chain.thought(), (slope, intercept), operations, chain.answer())


@pytest.mark.parametrize(
    "thought",
    [
        "",
        "4,16",
        "+3=2,9*2=4,16",  # a false link, then the right end
        "+3=3,8*2=4,16",
        "+3=2,8",  # an operation is missing
        "*2=4,10+6=4,16",  # other operations, right end
        "+3=2,8*2=4,16+0=4,16",
        "+3=2,8*2=4,16 done",
        "+3=2,8;*2=4,16",
        "+3=2,8*2=4",
    ],
)
def test_any_fault_makes_the_thought_false(thought: str) -> None:
    assert not true_refactoring_thought(thought, (2, 5), [("+", 3), ("*", 2)], "4*x+16")


def test_a_true_thought_must_end_in_the_answer() -> None:
    steps = [("+", 3), ("*", 2)]
    assert true_refactoring_thought("+3=2,8*2=4,16", (2, 5), steps, "16+4*x")
    assert not true_refactoring_thought("+3=2,8*2=4,16", (2, 5), steps, "4*x+15")
