"""A text as an answer: which kind of thing it is, and its parts. What it means is told in docs/verifiers.md."""

from collections.abc import Sequence
from itertools import product

import sympy

from srpo_core.rewards.answers.arithmetic import DEGREE, Expr
from srpo_core.rewards.answers.expressions import read_expression
from srpo_core.rewards.answers.kinds import (
    Answer,
    Assignments,
    BaseNumber,
    Choice,
    Clock,
    Listing,
    Named,
    Numbers,
    Ordered,
    Quantity,
    Ratio,
)
from srpo_core.rewards.answers.limits import MAX_ELEMENTS, TooLargeError, UnreadableError
from srpo_core.rewards.answers.relations import RELATIONS, read_relation
from srpo_core.rewards.answers.sets import as_numbers
from srpo_core.rewards.answers.tables import read_table
from srpo_core.rewards.answers.tokens import Token, enclosed, split, tokenize
from srpo_core.rewards.answers.units import take_unit
from srpo_core.rewards.answers.words import read_words, without_lead

_COMMAS = frozenset({",", ";"})
_SEPARATORS = _COMMAS | {"or", "and", "\\lor", "\\land"}
_SET_OPERATORS = frozenset({"\\cup", "\\cap", "\\setminus"})
_KNOWN_SETS = {
    "R": sympy.S.Reals, "Z": sympy.S.Integers, "N": sympy.S.Naturals, "Q": sympy.S.Rationals, "C": sympy.S.Complexes,
}  # fmt: skip
_MOST_SIGNS = 4
_LARGEST_BASE = 36
_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


def read_normalised(text: str) -> Answer:
    """What the text of an answer says, in plain notation (`normalise`). Raises UnreadableError and TooLargeError."""
    return read_tokens(tokenize(text))


def read_tokens(tokens: Sequence[Token]) -> Answer:
    """One answer, or several with commas, `or` and `and` between."""
    tokens = without_lead(tokens)
    if not tokens:
        raise UnreadableError("there is nothing")
    parts, separators = split(tokens, _SEPARATORS)
    parts = [part for part in parts if part]  # `, and` is one separator
    if len(parts) > MAX_ELEMENTS:
        raise TooLargeError(f"the answer has {len(parts)} elements, at most {MAX_ELEMENTS} are read")
    if not parts:
        raise UnreadableError("there are only separators")
    items = [item for part in parts for item in read_items(part)]
    return items[0] if len(items) == 1 else _together(items, separators)


def read_items(tokens: Sequence[Token]) -> list[Answer]:
    """One element of a list; each plus-minus sign makes several of it, except inside of braces, where it does there."""
    places = [index for index, token in enumerate(tokens) if token.text in ("\\pm", "\\mp")]
    if not places or tokens[0].text == "\\{" or any(token.text == "\\{" for token in tokens):
        return [read_item(tokens)]
    if len(places) > _MOST_SIGNS:
        raise TooLargeError(f"the answer has {len(places)} plus-minus signs, at most {_MOST_SIGNS} are read")
    together = any(token.text == "\\mp" for token in tokens)  # then upper signs go with upper ones
    choices = [("+",) * len(places), ("-",) * len(places)] if together else list(product("+-", repeat=len(places)))
    items: list[Answer] = []
    for choice in choices:
        chosen = list(tokens)
        for place, sign in zip(places, choice, strict=True):
            lower = tokens[place].text == "\\mp"
            chosen[place] = Token("sign", {"+": "-", "-": "+"}[sign] if lower else sign)
        item = read_item(chosen)
        if item not in items:
            items.append(item)
    return items


def read_item(tokens: Sequence[Token]) -> Answer:
    """One answer without separators outside of its brackets."""
    tokens = tuple(tokens)
    parts, found = split(tokens, RELATIONS)
    if found:
        return read_relation(parts, found, read_item)
    parts, found = split(tokens, _SET_OPERATORS)
    if found:
        return _read_set_operation(parts, found)
    for attempt in (_special, _bracketed, read_table, _letter_of_choice, _base_number, _ratio, _clock):
        answer = attempt(tokens)
        if answer is not None:
            return answer
    words = read_words(tokens)
    return words if words is not None else _quantity(tokens)


def _together(items: list[Answer], separators: list[str]) -> Answer:
    """Several answers as one: a union or intersection of conditions, values of several names, or a list."""
    conditions = [item for item in items if isinstance(item, Numbers) and item.variable]
    if len(conditions) == len(items) and not _COMMAS & set(separators):
        return _solution_set(conditions, separators)
    named = [item for item in items if isinstance(item, Named)]
    names = [item.name for item in named]
    if len(named) == len(items) and len(set(names)) == len(names):
        return Assignments(tuple((item.name, item.value) for item in named))
    if named and len(set(names)) == 1 and isinstance(items[0], Named):  # x = 1, 2: the second is x too
        name = names[0]
        return Listing(tuple(item if isinstance(item, Named) else Named(name, item) for item in items))
    return Listing(tuple(items), alternatives=set(separators) <= {"or", "\\lor"})


def _special(tokens: tuple[Token, ...]) -> Answer | None:
    texts = [token.text for token in tokens if token.text not in ("{", "}")]
    if texts == ["\\emptyset"]:
        return Numbers(sympy.S.EmptySet)
    if len(texts) == 2 and texts[0] == "\\mathbb" and texts[1] in _KNOWN_SETS:
        return Numbers(_KNOWN_SETS[texts[1]])
    return None


def _bracketed(tokens: tuple[Token, ...]) -> Answer | None:
    if not enclosed(tokens) or tokens[0].text not in ("(", "[", "\\{", "\\langle"):
        return None
    opening, closing, inner = tokens[0].text, tokens[-1].text, tokens[1:-1]
    if opening == "\\{" and closing == "\\}":
        return _read_braces(inner)
    parts, _ = split(inner, _COMMAS)
    if len(parts) == 1:
        return read_item(inner) if (opening, closing) == ("(", ")") and _holds_answer(inner) else None
    if len(parts) > MAX_ELEMENTS:
        raise TooLargeError(f"the answer has {len(parts)} elements, at most {MAX_ELEMENTS} are read")
    plain = {"\\langle": "(", "\\rangle": ")"}
    items = tuple(read_item(without_lead(part)) for part in parts)
    return Ordered(items, plain.get(opening, opening), plain.get(closing, closing))


def _holds_answer(inner: tuple[Token, ...]) -> bool:
    """Whether parentheses stand around something that is no formula: a condition, a set, a pair."""
    relations = split(inner, RELATIONS)[1] or split(inner, _SET_OPERATORS)[1]
    return bool(relations) or (enclosed(inner) and inner[0].text in ("(", "[", "\\{"))


def _read_braces(inner: tuple[Token, ...]) -> Answer:
    """{…}: elements, or a variable with its condition."""
    if not inner:
        return Numbers(sympy.S.EmptySet)
    for bar in ("|", ":"):
        parts, found = split(inner, frozenset({bar}))
        if len(found) == 1 and len(parts[0]) <= 6 and parts[0] and parts[0][0].kind == "letters":
            condition = read_tokens(parts[1])
            if isinstance(condition, Numbers) and condition.variable == parts[0][0].text:
                return Numbers(condition.numbers)
            raise UnreadableError("a set with a condition that is no interval")
    parts, _ = split(inner, frozenset({",", ";"}))
    if len(parts) > MAX_ELEMENTS:
        raise TooLargeError(f"a set has {len(parts)} elements, at most {MAX_ELEMENTS} are read")
    return Listing(tuple(item for part in parts for item in read_items(part)), braces=True)


def _read_set_operation(parts: Sequence[tuple[Token, ...]], operators: Sequence[str]) -> Answer:
    """Unions, intersections and differences, from left to right."""
    answers = [read_item(part) for part in parts]
    result, *others = [as_numbers(answer) for answer in answers]
    for operator, other in zip(operators, others, strict=True):
        if operator == "\\cup":
            result = sympy.Union(result, other)
        else:
            result = sympy.Intersection(result, other) if operator == "\\cap" else sympy.Complement(result, other)
    return Numbers(result)


def _solution_set(conditions: Sequence[Numbers], words: Sequence[str]) -> Answer:
    """x < 1 or x > 5 as a union, x > 1 and x < 5 as an intersection. All must be about the same variable."""
    if len({condition.variable for condition in conditions}) != 1 or len(set(words)) != 1:
        return Listing(tuple(conditions))
    sets = [condition.numbers for condition in conditions]
    union = words[0] in ("or", "\\lor")
    return Numbers(sympy.Union(*sets) if union else sympy.Intersection(*sets), conditions[0].variable)


def _letter_of_choice(tokens: tuple[Token, ...]) -> Answer | None:
    """(B) 5: the letter and what it stands for."""
    if len(tokens) < 4 or tokens[0].text != "(" or tokens[2].text != ")" or tokens[1].kind != "word":
        return None
    letter = tokens[1].text
    return Choice(letter.casefold(), read_item(tokens[3:])) if len(letter) == 1 and letter.isalpha() else None


def _base_number(tokens: tuple[Token, ...]) -> Answer | None:
    """101_2, 1A_{16}, 101_{\\text{two}}; base ten is a number like any other."""
    texts = [token.text for token in tokens if token.text not in ("{", "}", "(", ")")]
    if texts.count("_") != 1 or texts.index("_") < 1 or not texts[0][0].isdigit():
        return None
    at = texts.index("_")
    digits, base_text = "".join(texts[:at]), "".join(texts[at + 1 :])
    base = int(base_text) if base_text.isdigit() and len(base_text) < 3 else _BASE_WORDS.get(base_text.lower(), 0)
    if not digits.isalnum() or not 2 <= base <= _LARGEST_BASE:
        return None
    try:
        value = int(digits, base)
    except ValueError:
        raise UnreadableError(f"{digits} is no number of base {base}") from None
    return Quantity(sympy.Integer(value)) if base == 10 else BaseNumber(digits.lstrip("0").upper() or "0", base)


def _ratio(tokens: tuple[Token, ...]) -> Answer | None:
    parts, found = split(tokens, frozenset({":", "to"}))
    if not found or not all(parts):
        return None
    time = _clock(tokens)
    if time is not None:
        return time
    values = tuple(read_expression(part) for part in parts)
    if any(value == 0 for value in values):
        raise UnreadableError("a ratio with zero")
    return Ratio(values)


def _clock(tokens: tuple[Token, ...]) -> Answer | None:
    """3:05, 10:30 am. A pair of numbers that has no common factor is a ratio, unless am or pm follows."""
    texts = [token.text.lower() for token in tokens]
    if len(texts) < 3 or texts[1] != ":" or not (texts[0].isdigit() and texts[2].isdigit() and len(texts[2]) == 2):
        return None
    half = texts[3] if len(texts) == 4 and texts[3] in ("am", "pm") else None
    hours, minutes = int(texts[0][:4]), int(texts[2])
    if (len(texts) > 3 and half is None) or hours > 24 or minutes > 59:
        return None
    if half is None and hours and minutes and sympy.igcd(hours, minutes) == 1 and not texts[2].startswith("0"):
        return None
    return Clock(hours, minutes, half)


def _quantity(tokens: tuple[Token, ...]) -> Answer:
    measured = take_unit(tokens)
    if not measured.value:
        raise UnreadableError("a unit without a number")
    value: Expr = read_expression(measured.value) * measured.factor
    unit = measured.unit
    if value.has(DEGREE):
        value, unit = value / DEGREE, "degree" if unit is None else unit
        if value.has(DEGREE):
            raise UnreadableError("degrees and plain numbers together")
    if value.has(sympy.oo) and not value.is_infinite:
        raise UnreadableError("infinity inside a formula")
    written = [token for token in tokens if token.text not in ("(", ")", "{", "}")]
    letters = written[0].text if len(written) == 1 and written[0].kind in ("letters", "word") else None
    decimal = any(token.kind == "number" and "." in token.text for token in tokens)
    return Quantity(value, unit, decimal, letters)
