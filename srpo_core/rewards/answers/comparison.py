"""Whether an answer is the one that was asked for: the policy that docs/verifiers.md tells, case by case."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import sympy

from srpo_core.rewards.answers.arithmetic import symbol
from srpo_core.rewards.answers.equality import proportional, same_value
from srpo_core.rewards.answers.kinds import (
    Answer,
    Approximation,
    Assignments,
    BaseNumber,
    Choice,
    Clock,
    Equation,
    Inequality,
    Listing,
    Named,
    Numbers,
    Ordered,
    Quantity,
    Ratio,
    Table,
    Words,
)
from srpo_core.rewards.answers.limits import UnreadableError
from srpo_core.rewards.answers.sets import as_interval, as_numbers, same_numbers


def same_answer(gold: Answer, given: Answer) -> bool:  # noqa: PLR0911  (one for each rule)
    """Whether the given answer is the gold one."""
    if isinstance(given, Approximation) or isinstance(gold, Approximation):
        return _same_approximation(gold, given)
    if isinstance(given, Choice) and not isinstance(gold, Choice):
        return same_answer(gold, Words(given.letter)) or same_answer(gold, given.value)
    if isinstance(gold, Choice) and not isinstance(given, Choice):
        return same_answer(Words(gold.letter), given) or same_answer(gold.value, given)
    if isinstance(gold, Named) or isinstance(given, Named):
        return _same_named(gold, given)
    if isinstance(gold, Ratio) and isinstance(given, Clock):  # 12:15 may be meant as a ratio, where one was asked for
        return given.half is None and bool(given.minutes) and _same_ratio(gold, _clock_ratio(given))
    if isinstance(given, Listing) and given.alternatives and not isinstance(gold, Listing):
        return all(same_answer(gold, item) for item in given.items)
    if type(gold) is type(given):
        return _SAME_KIND[type(gold)](gold, given)
    return _same_across(gold, given) or _same_across(given, gold)


def _same_approximation(gold: Answer, given: Answer) -> bool:
    """An approximation answers a gold decimal; one that follows the exact value answers that too."""
    if isinstance(gold, Approximation):
        ours = [answer for answer in (gold.exact, gold.decimal) if answer is not None]
        if isinstance(given, Approximation):
            return same_answer(gold.decimal, given.decimal)
        return any(same_answer(answer, given) for answer in ours)
    assert isinstance(given, Approximation)
    if given.exact is not None and same_answer(gold, given.exact):
        return True
    inner = gold.value if isinstance(gold, Named) else gold
    return isinstance(inner, Quantity) and inner.decimal and same_answer(gold, given.decimal)


def _same_named(gold: Answer, given: Answer) -> bool:
    """A name may be left out or added, but not changed."""
    names = [answer.name for answer in (gold, given) if isinstance(answer, Named)]
    values = [answer.value if isinstance(answer, Named) else answer for answer in (gold, given)]
    if len(set(names)) == 1 and not any(isinstance(answer, Equation) for answer in values):
        if not _agrees_with_name(names[0], values):
            return False
        return same_answer(values[0], values[1])
    ours, theirs = _as_equation(gold), _as_equation(given)
    return ours is not None and theirs is not None and proportional(ours, theirs, positive=False)


def _agrees_with_name(name: str, values: list[Answer]) -> bool:
    variables = {value.variable for value in values if isinstance(value, Numbers)} - {None}
    return not variables or variables == {name}


def _as_equation(answer: Answer) -> Any | None:
    """y = 2x + 3 as y - 2x - 3; None for a name whose value holds no variable."""
    if isinstance(answer, Equation):
        return answer.difference
    if isinstance(answer, Named) and isinstance(answer.value, Quantity) and answer.value.value.free_symbols:
        return symbol(answer.name) - answer.value.value
    return None


def _same_quantity(gold: Quantity, given: Quantity) -> bool:
    units = {gold.unit, given.unit}
    if units == {"degree", "radian"}:
        return same_value(_radians(gold), _radians(given))
    if len(units - {None}) > 1:
        return False
    if units == {"degree", None}:  # 90 degrees are pi/2
        degrees, other = (gold, given) if gold.unit else (given, gold)
        if other.value.has(sympy.pi):
            return same_value(_radians(degrees), other.value)
    if same_value(gold.value, given.value):
        return True
    if None in units and len(units) == 2:  # 5 m, with the unit set like a variable
        measured, plain = (gold, given) if gold.unit else (given, gold)
        unit = measured.unit or ""
        return len(unit) == 1 and same_value(measured.value * symbol(unit), plain.value)
    return False


def _radians(quantity: Quantity) -> Any:
    return quantity.value * sympy.pi / 180 if quantity.unit == "degree" else quantity.value


def _same_listing(gold: Listing, given: Listing) -> bool:
    """The same elements, in any order; how often counts, but for two sets in braces."""
    ours, theirs = list(gold.items), list(given.items)
    if gold.braces and given.braces:
        return all(_found(item, theirs) for item in ours) and all(_found(item, ours) for item in theirs)
    if len(ours) != len(theirs):
        return False
    for item in ours:
        for index, other in enumerate(theirs):
            if same_answer(item, other):
                del theirs[index]
                break
        else:
            return False
    return True


def _found(item: Answer, others: list[Answer]) -> bool:
    return any(same_answer(item, other) for other in others)


def _same_ordered(gold: Ordered, given: Ordered) -> bool:
    if (gold.opening, gold.closing) != (given.opening, given.closing) or len(gold.items) != len(given.items):
        return False
    return all(same_answer(ours, theirs) for ours, theirs in zip(gold.items, given.items, strict=True))


def _same_assignments(gold: Assignments, given: Assignments) -> bool:
    ours, theirs = dict(gold.values), dict(given.values)
    return ours.keys() == theirs.keys() and all(same_answer(value, theirs[name]) for name, value in ours.items())


def _same_set(gold: Numbers, given: Numbers) -> bool:
    variables = {gold.variable, given.variable} - {None}
    return len(variables) < 2 and same_numbers(gold.numbers, given.numbers)


def _same_ratio(gold: Ratio, given: Ratio) -> bool:
    """a:b and c:d are the same when ad = bc."""
    if len(gold.parts) != len(given.parts):
        return False
    return all(
        same_value(ours * given.parts[0], theirs * gold.parts[0])
        for ours, theirs in zip(gold.parts[1:], given.parts[1:], strict=True)
    )


def _same_table(gold: Table, given: Table) -> bool:
    if [len(row) for row in gold.rows] != [len(row) for row in given.rows]:
        return False
    pairs = zip(gold.rows, given.rows, strict=True)
    return all(same_value(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def _same_clock(gold: Clock, given: Clock) -> bool:
    return gold.hours == given.hours and gold.minutes == given.minutes and len({gold.half, given.half} - {None}) < 2


_SAME_KIND: dict[type, Callable[[Any, Any], bool]] = {
    Quantity: _same_quantity,
    Words: lambda gold, given: gold.text == given.text,
    Choice: lambda gold, given: gold.letter == given.letter and same_answer(gold.value, given.value),
    BaseNumber: lambda gold, given: gold == given,
    Clock: _same_clock,
    Ratio: _same_ratio,
    Listing: _same_listing,
    Ordered: _same_ordered,
    Table: _same_table,
    Numbers: _same_set,
    Assignments: _same_assignments,
    Equation: lambda gold, given: proportional(gold.difference, given.difference, positive=False),
    Inequality: lambda gold, given: (
        gold.strict == given.strict and proportional(gold.difference, given.difference, positive=True)
    ),
}


def _same_across(one: Answer, other: Answer) -> bool:  # noqa: PLR0911  (one for each rule)
    """Two kinds that may say the same; `one` is the kind that each rule begins with."""
    if isinstance(one, Words) and isinstance(other, Quantity):
        return other.unit is None and other.letters is not None and other.letters.casefold() == one.text
    if isinstance(one, Ratio) and isinstance(other, Quantity):
        return len(one.parts) == 2 and other.unit is None and same_value(one.parts[0] / one.parts[1], other.value)
    if isinstance(one, Numbers) and isinstance(other, Ordered):
        numbers = as_interval(other)
        return numbers is not None and same_numbers(one.numbers, numbers)
    if isinstance(one, Numbers) and isinstance(other, Listing):
        return _set_is_listing(one, other)
    if isinstance(one, Assignments) and isinstance(other, Ordered):
        return _assigned_in_order(one, other)
    if isinstance(one, Table) and isinstance(other, Ordered):
        return _column_is_vector(one, other)
    return False


def _clock_ratio(clock: Clock) -> Ratio:
    return Ratio((sympy.Integer(clock.hours), sympy.Integer(clock.minutes)))


def _set_is_listing(numbers: Numbers, listing: Listing) -> bool:
    if not listing.braces:
        return False
    try:
        return same_numbers(numbers.numbers, as_numbers(listing))
    except UnreadableError:
        return False


def _assigned_in_order(assignments: Assignments, ordered: Ordered) -> bool:
    """x = 2, y = 3 is (2, 3), and so is y = 3, x = 2."""
    values = assignments.values
    if _in_alphabet([name for name, _ in values]):
        values = tuple(sorted(values, key=lambda pair: pair[0]))
    return _same_ordered(Ordered(tuple(value for _, value in values)), ordered)


def _in_alphabet(names: list[str]) -> bool:
    """Whether the names have an order of their own: x, y, z; a, b; x_1, x_2. (m and b have none.)"""
    letters = sorted(names)
    if all(len(name) == 1 for name in names):
        return all(ord(later) - ord(earlier) == 1 for earlier, later in pairwise(letters))
    return len({name[0] for name in names}) == 1 and all(name[1:2] == "_" and name[2:].isdigit() for name in names)


def _column_is_vector(table: Table, ordered: Ordered) -> bool:
    if any(len(row) != 1 for row in table.rows) or (ordered.opening, ordered.closing) != ("(", ")"):
        return False
    column = Ordered(tuple(Quantity(row[0]) for row in table.rows))
    return _same_ordered(column, ordered)
