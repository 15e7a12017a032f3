"""The lab's code: answers that are expressions in x, run by an interpreter of our own on x = 0..9.

    expression := term (("+" | "-") term)*
    term       := factor ("*" factor)*
    factor     := number | "x" | "-" factor | "(" expression ")"

Nothing is handed to Python's `eval` or compiler. Length, nesting and magnitude are bounded, so that every text gets
a verdict in bounded time and memory. Statements, functions and tests in a general language are not covered.
"""

import re
from collections.abc import Callable
from typing import Literal

from srpo_core.rewards.lab.math import calculate, split_links

MAX_CHARACTERS = 256
MAX_NESTING = 16
MAX_MAGNITUDE = 10**12
TEST_INPUTS = range(10)

Outcome = Literal["correct", "wrong_answer", "invalid_expression"]
Function = Callable[[int], int]

_TOKEN = re.compile(r"\s*([0-9]{1,12}|[x+*()-])")
_LINK = re.compile(r"([+*-])([0-9]{1,9})=([0-9]{1,9}),([0-9]{1,9})")


class InvalidExpressionError(ValueError):
    """The text is no expression of the grammar, or leaves its bounds; the message says where or which."""


class _Reader:
    """A recursive-descent reader that builds one closure per operation."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.position = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def expression(self, nesting: int) -> Function:
        total = self.term(nesting)
        while self.peek() in ("+", "-"):
            total = _combine(total, self.take(), self.term(nesting))
        return total

    def term(self, nesting: int) -> Function:
        product = self.factor(nesting)
        while self.peek() == "*":
            product = _combine(product, self.take(), self.factor(nesting))
        return product

    def factor(self, nesting: int) -> Function:
        if nesting > MAX_NESTING:
            raise InvalidExpressionError(f"nested more than {MAX_NESTING} deep")
        token = self.take()
        if token == "x":
            return lambda x: x
        if token == "-":
            return _combine(lambda x: 0, "-", self.factor(nesting + 1))
        if token == "(":
            inner = self.expression(nesting + 1)
            if self.take() != ")":
                raise InvalidExpressionError("a parenthesis is not closed")
            return inner
        if token.isdigit():
            number = int(token)
            return lambda x: number
        raise InvalidExpressionError(f"expected a number, x, - or (, found {token or 'the end'!r}")


def _tokens(text: str) -> list[str]:
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise InvalidExpressionError(f"longer than {MAX_CHARACTERS} characters")
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidExpressionError(f"character {text[position]!r} is not of the grammar")
        tokens.append(match.group(1))
        position = match.end()
    return tokens


def _combine(left: Function, symbol: str, right: Function) -> Function:
    def run(x: int) -> int:
        value = calculate(left(x), symbol, right(x))
        if abs(value) > MAX_MAGNITUDE:
            raise InvalidExpressionError(f"a value exceeds {MAX_MAGNITUDE}")
        return value

    return run


def read_expression(text: str) -> Function:
    """The function of x that an expression is. Raises InvalidExpressionError, as may calling it (magnitude)."""
    reader = _Reader(text)
    function = reader.expression(0)
    if reader.position < len(reader.tokens):
        raise InvalidExpressionError(f"{reader.peek()!r} stands after the end of the expression")
    return function


def judge_expression(answer: str, expected: str) -> Outcome:
    """Whether two expressions have the same values on x = 0..9.

    Raises InvalidExpressionError if `expected` is no expression itself (a fault of the problem, not of the answer).
    """
    target = read_expression(expected)
    wanted = [target(x) for x in TEST_INPUTS]
    try:
        function = read_expression(answer)
        values = [function(x) for x in TEST_INPUTS]
    except InvalidExpressionError:
        return "invalid_expression"
    return "correct" if values == wanted else "wrong_answer"


def true_refactoring_thought(
    thought: str, start: tuple[int, int], operations: list[tuple[str, int]], answer: str
) -> bool:
    """Whether `+3=2,8*2=4,16` truly carries slope and intercept from `start` to `answer` by `operations`.

    Every operation must stand once and in order, each with the slope and intercept that it leads to, and the last
    pair must be the function that the answer is.
    """
    links = split_links("".join(thought.split()), _LINK)
    if not links or [(symbol, int(operand)) for symbol, operand, *_ in links] != operations:
        return False
    slope, intercept = start
    for symbol, operand, *result in links:
        slope = slope * int(operand) if symbol == "*" else slope
        intercept = calculate(intercept, symbol, int(operand))
        if [slope, intercept] != [int(number) for number in result]:
            return False
    return judge_expression(answer, f"{slope}*x+{intercept}") == "correct"
