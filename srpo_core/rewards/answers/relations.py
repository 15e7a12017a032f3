"""Equations, inequalities, approximations and membership."""

from collections.abc import Callable, Sequence
from typing import Any

import sympy

from srpo_core.rewards.answers.equality import same_value
from srpo_core.rewards.answers.expressions import read_expression
from srpo_core.rewards.answers.kinds import (
    Answer,
    Approximation,
    Assignments,
    Equation,
    Inequality,
    Listing,
    Named,
    Numbers,
    Ordered,
    Quantity,
)
from srpo_core.rewards.answers.limits import UnreadableError
from srpo_core.rewards.answers.sets import as_numbers, interval
from srpo_core.rewards.answers.tokens import Token, tokenize
from srpo_core.rewards.answers.units import OTHER_MEANING
from srpo_core.rewards.answers.words import without_lead

_EQUAL = frozenset({"=", "\\equiv"})
_ORDER = frozenset({"<", ">", "\\le", "\\ge"})
RELATIONS = _EQUAL | _ORDER | {"\\ne", "\\in", "\\approx"}
_NAME_COMMANDS = frozenset({"\\angle", "\\triangle", "\\overline", "\\vec", "\\bar", "\\hat"})
_NAME_SIGNS = frozenset({"(", ")", "{", "}", "_", "'", ",", "[", "]"})
Parts = Sequence[tuple[Token, ...]]
Reader = Callable[[Sequence[Token]], Answer]
"""Reads one side of a relation."""


def read_relation(parts: Parts, signs: Sequence[str], read: Reader) -> Answer:
    """What stands around relation signs. Raises UnreadableError for a relation that is false."""
    kinds = set(signs)
    if "\\approx" in kinds:
        return _approximation(parts, signs, read)
    if kinds <= _EQUAL:
        return _equation([without_lead(part) for part in parts], read)
    if kinds <= _ORDER:
        return _order(parts, signs, read)
    if len(parts) != 2:
        raise UnreadableError("several relations of different kinds")
    name = _name(parts[0])
    if name is None:
        raise UnreadableError("a relation about no variable")
    if signs[0] == "\\ne":
        return Numbers(sympy.Complement(sympy.S.Reals, sympy.FiniteSet(read_expression(parts[1]))), name)
    members = read(parts[1])
    if isinstance(members, Listing):
        named: tuple[Answer, ...] = tuple(Named(name, item) for item in members.items)
        return Listing(named, members.braces) if len(named) > 1 else named[0]
    return Numbers(as_numbers(members), name)


def _name(tokens: Sequence[Token]) -> str | None:  # noqa: PLR0911  (one for each thing that is no name)
    """The name that the tokens are: x, x_1, f(x), AB, \\angle ABC, (x,y), or a word; None when they are a formula."""
    if not tokens or not any(token.kind in ("letters", "word") or _is_greek(token) for token in tokens):
        return None
    if (
        len(tokens) == 3
        and tokens[0].text == tokens[2].text == "|"
        and len(tokens[1].text) > 1
        and tokens[1].text.isupper()
    ):
        return tokens[1].text  # the length of AB
    if any(token.kind == "word" and token.text.lower() in OTHER_MEANING for token in tokens):
        return None
    subscript = False
    for index, token in enumerate(tokens):
        if token.kind == "number":
            previous = tokens[index - 1].text if index else ""
            if not (previous == "_" or subscript or (previous == "(" and index > 1)):
                return None
        elif token.kind == "sign":
            if token.text not in _NAME_SIGNS:
                return None
            subscript = subscript or (token.text == "{" and tokens[index - 1].text == "_")
        elif token.kind == "command" and token.text not in _NAME_COMMANDS and not _is_greek(token):
            return None
    written = "".join(token.text for token in tokens if token.text not in ("{", "}"))
    return None if written in ("e", "i") else written


def _is_greek(token: Token) -> bool:
    if token.kind != "command" or token.text in ("\\pi", "\\infty"):
        return False
    try:
        return bool(read_expression([token]).is_Symbol)
    except UnreadableError:
        return False


def _equation(parts: Parts, read: Reader) -> Answer:
    names, values = _names_and_values(parts)
    if names and not values:  # p = q
        names, values = names[:1], list(parts[1:])
    if not names:
        return _nameless(values, read)
    value = _chain(values, read)
    if isinstance(value, Quantity) and value.value.free_symbols & _symbols(names[0]):
        return _nameless(parts, read)
    if len(names) > 1:
        return Assignments(tuple((name, value) for name in names))
    inner = names[0][1:-1].split(",") if names[0].startswith("(") and names[0].endswith(")") else []
    if len(inner) > 1 and isinstance(value, Ordered) and len(inner) == len(value.items):
        return Assignments(tuple(zip(inner, value.items, strict=True)))
    return Named(names[0], value)


def _names_and_values(parts: Parts) -> tuple[list[str], list[tuple[Token, ...]]]:
    names: list[str] = []
    for index, part in enumerate(parts):
        name = _name(part)
        if name is None:
            return names, list(parts[index:]) if names else _turned(parts, names)
        names.append(name)
    return names, []


def _turned(parts: Parts, names: list[str]) -> list[tuple[Token, ...]]:
    """5 = x names x too."""
    name = _name(parts[-1]) if len(parts) == 2 else None
    if name is None:
        return list(parts)
    names.append(name)
    return list(parts[:-1])


def _symbols(name: str) -> set[Any]:
    try:
        return set(read_expression(tokenize(name)).free_symbols) if len(name) == 1 or name[1:2] == "_" else set()
    except UnreadableError:
        return set()


def _chain(parts: Parts, read: Reader) -> Answer:
    """The last of several values that are all the same; formulas with variables may stand before a plain value."""
    values = [read(part) for part in parts]
    last = values[-1]
    for value in values[:-1]:
        if not isinstance(value, Quantity) or not isinstance(last, Quantity):
            raise UnreadableError("equal signs between things that are no formulas")
        if value.value.free_symbols and not last.value.free_symbols:
            continue
        if not same_value(value.value, last.value) or (None not in (value.unit, last.unit) and value.unit != last.unit):
            raise UnreadableError("the equation is false")
    return last


def _nameless(parts: Parts, read: Reader) -> Answer:
    """An equation about no name: a true one says its value, one with variables is an equation."""
    values = [read(part) for part in parts]
    quantities = [value.value for value in values if isinstance(value, Quantity)]
    if len(quantities) != len(values):
        raise UnreadableError("an equation between things that are no formulas")
    if not any(value.free_symbols for value in quantities):
        return _chain(parts, read)
    if len(values) != 2:
        raise UnreadableError("several equations in a row")
    if same_value(quantities[0], quantities[1]):
        return values[-1]
    return Equation(quantities[0] - quantities[1])


def _order(parts: Parts, signs: Sequence[str], read: Reader) -> Answer:
    if len(signs) == 2 and len(parts) == 3:
        return _between(parts, signs, read)
    if len(signs) != 1:
        raise UnreadableError("more than two inequality signs")
    sign = signs[0]
    sides = [read(part) for part in parts]
    left, right = [_plain(side) for side in sides]
    if left.is_Symbol != right.is_Symbol and not (left.free_symbols and right.free_symbols):
        name, number = (left, right) if left.is_Symbol else (right, left)
        upwards = (sign in (">", "\\ge")) == left.is_Symbol
        is_open = sign in ("<", ">")
        ends = (number, sympy.oo, is_open, True) if upwards else (-sympy.oo, number, True, is_open)
        return Numbers(_interval(*ends), str(name))
    if not (left.free_symbols or right.free_symbols):
        raise UnreadableError("an inequality about no variable")
    difference = left - right if sign in (">", "\\ge") else right - left
    return Inequality(difference, sign in ("<", ">"))


def _between(parts: Parts, signs: Sequence[str], read: Reader) -> Answer:
    """1 < x <= 2, or 2 >= x > 1."""
    low, middle, high = [_plain(read(part)) for part in parts]
    opens = [sign in ("<", ">") for sign in signs]
    upward = [sign in ("<", "\\le") for sign in signs]
    if upward[0] != upward[1] or not middle.is_Symbol or low.free_symbols or high.free_symbols:
        raise UnreadableError("a chain of inequalities that is no interval")
    if not upward[0]:
        low, high, opens = high, low, opens[::-1]
    if low.is_infinite or high.is_infinite:
        opens = [bool(low.is_infinite) or opens[0], bool(high.is_infinite) or opens[1]]
    return Numbers(_interval(low, high, *opens), str(middle))


def _interval(low: Any, high: Any, low_open: bool, high_open: bool) -> Any:
    found = interval(low, high, low_open, high_open)
    if found is None:
        raise UnreadableError("no interval")
    return found


def _plain(answer: Answer) -> Any:
    if not isinstance(answer, Quantity):
        raise UnreadableError("an inequality between things that are no formulas")
    return answer.value


def _approximation(parts: Parts, signs: Sequence[str], read: Reader) -> Answer:
    """A = B \\approx C. Raises UnreadableError when C is not A, rounded or cut."""
    if signs[-1] != "\\approx" or "\\approx" in signs[:-1] or set(signs[:-1]) - _EQUAL:
        raise UnreadableError("an approximation in the midst of relations")
    decimal = read(parts[-1])
    before = parts[:-1]
    name = _name(before[0]) if len(before) == 1 else None
    if name is not None:
        return Named(name, Approximation(None, decimal))
    if before == [()]:
        return Approximation(None, decimal)
    exact = read(before[0]) if len(before) == 1 else _equation(before, read)
    value = exact.value if isinstance(exact, Named) else exact
    if not (
        isinstance(value, Quantity) and isinstance(decimal, Quantity) and _is_near(value.value, decimal, parts[-1])
    ):
        raise UnreadableError("an approximation that is not near")
    return Approximation(exact, decimal)


def _is_near(exact: Any, decimal: Quantity, written: Sequence[Token]) -> bool:
    places = max((len(token.text.partition(".")[2]) for token in written if token.kind == "number"), default=0)
    difference = exact - decimal.value
    if not difference.is_number or not exact.is_real:
        return False
    unit = sympy.Rational(1, 10**places)
    cut = sympy.sign(exact) * difference
    return bool(abs(difference) <= unit / 2) or (bool(cut >= 0) and bool(cut < unit))
