"""The lab's math: integer answers, and the running thought of a chain."""

import re

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_LINK = re.compile(r"([+*-])([0-9]{1,9})=([0-9]{1,9})")


def read_integer(text: str) -> int | None:
    """The integer that `text` is, or None: ASCII digits with an optional sign, at most 18 of them, nothing else."""
    text = text.strip()
    return int(text) if _INTEGER.fullmatch(text) else None


def same_integer(answer: str, expected: str) -> bool:
    """Whether an answer is the expected integer. Raises ValueError if `expected` is none itself."""
    target = read_integer(expected)
    if target is None:
        raise ValueError(f"the expected answer of a math problem must be an integer, not {expected!r}")
    return read_integer(answer) == target


def true_running_thought(thought: str, start: int, operations: list[tuple[str, int]], answer: str) -> bool:
    """Whether `6+1=7-3=4` is a true account of how `start` becomes `answer` by `operations` (symbol, operand).

    It must begin at the start, use every operation once and in order, be true at each link, and end in the answer.
    """
    thought = "".join(thought.split())
    head = re.match(r"[0-9]{1,9}", thought)
    if head is None or int(head.group()) != start:
        return False
    links = split_links(thought[head.end() :], _LINK)
    if links is None or [(symbol, int(operand)) for symbol, operand, _ in links] != operations:
        return False
    value = start
    for symbol, operand, result in links:
        value = calculate(value, symbol, int(operand))
        if value != int(result):
            return False
    return read_integer(answer) == value


def split_links(text: str, link: re.Pattern[str]) -> list[tuple[str, ...]] | None:
    """The groups of each `link`, or None if anything else stands between or after them."""
    links = []
    position = 0
    while position < len(text):
        match = link.match(text, position)
        if match is None:
            return None
        links.append(match.groups())
        position = match.end()
    return links


def calculate(value: int, symbol: str, operand: int) -> int:
    """`value symbol operand` for the three operations of the lab."""
    if symbol == "*":
        return value * operand
    return value + operand if symbol == "+" else value - operand
