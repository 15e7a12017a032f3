"""Sets of numbers: braces, intervals, unions, conditions."""

from typing import Any

import sympy

from srpo_core.rewards.answers.equality import same_value
from srpo_core.rewards.answers.kinds import Answer, Listing, Numbers, Ordered, Quantity
from srpo_core.rewards.answers.limits import UnreadableError


def as_numbers(answer: Answer) -> Any:
    """The sympy set that an answer is. Raises UnreadableError when it is none."""
    if isinstance(answer, Numbers):
        return answer.numbers
    if isinstance(answer, Listing) and answer.braces and all(isinstance(item, Quantity) for item in answer.items):
        return sympy.FiniteSet(*(item.value for item in answer.items if isinstance(item, Quantity)))
    if isinstance(answer, Ordered):
        interval = as_interval(answer)
        if interval is not None:
            return interval
    raise UnreadableError("no set of numbers")


def as_interval(answer: Ordered) -> Any | None:
    """The interval that a pair in brackets may be; None when it cannot be one."""
    if len(answer.items) != 2 or answer.opening not in "([" or answer.closing not in ")]":
        return None
    low, high = answer.items
    if not (isinstance(low, Quantity) and isinstance(high, Quantity)) or {low.unit, high.unit} != {None}:
        return None
    return interval(low.value, high.value, answer.opening == "(", answer.closing == ")")


def interval(low: Any, high: Any, low_open: bool, high_open: bool) -> Any | None:
    """The interval between two real ends; None when there is none, or when it is closed at infinity."""
    ordered = (high - low).is_extended_positive
    infinite = low.is_infinite, high.is_infinite
    if (infinite[0] and not low_open) or (infinite[1] and not high_open):
        return None
    if ordered is False or (ordered is None and not any(infinite) and (high - low).is_number):
        return None
    if low is sympy.oo or high is -sympy.oo or low.has(sympy.I) or high.has(sympy.I):
        return None
    return sympy.Interval(low, high, low_open, high_open)


def same_numbers(first: Any, second: Any) -> bool:
    """Whether two sets are equal, their ends and elements compared by value."""
    if first == second:
        return True
    ours, theirs = _pieces(first), _pieces(second)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return False
    return all(
        a[2:] == b[2:] and same_value(a[0], b[0]) and same_value(a[1], b[1]) for a, b in zip(ours, theirs, strict=True)
    )


def _pieces(numbers: Any) -> list[tuple[Any, Any, bool, bool]] | None:
    """Intervals and single numbers from low to high; None for other sets and ends that have no order."""
    parts = numbers.args if isinstance(numbers, sympy.Union) else (numbers,)
    pieces: list[tuple[Any, Any, bool, bool]] = []
    for part in parts:
        if isinstance(part, sympy.Interval):
            pieces.append((part.start, part.end, bool(part.left_open), bool(part.right_open)))
        elif isinstance(part, sympy.FiniteSet):
            pieces.extend((element, element, False, False) for element in part.args)
        else:
            return None
    if not all(end.is_extended_real and end.is_number for piece in pieces for end in piece[:2]):
        return None
    return sorted(pieces, key=lambda piece: (sympy.N(piece[0], 30), sympy.N(piece[1], 30)))
