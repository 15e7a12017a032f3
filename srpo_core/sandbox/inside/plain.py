"""Plain data as tagged JSON: what crosses between two processes that do not trust each other.

Decoding builds values of exact built-in and standard library types, whoever encoded them, so nothing that arrives
brings code with it. What is not plain is left to the caller, who may send a reference in its stead.
"""

import keyword
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

Json = Any
Other = Callable[[Any], Json]
"""Encodes, or decodes, what is not plain."""

_WORD = 2**53
_SEQUENCES: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque"}
_MAPPINGS: dict[type, str] = {
    dict: "dict",
    Counter: "Counter",
    OrderedDict: "OrderedDict",
    defaultdict: "defaultdict",
}
_TEXTS: dict[type, tuple[str, Callable[[Any], str]]] = {
    bytes: ("bytes", lambda value: value.decode("latin-1")),
    bytearray: ("bytearray", lambda value: value.decode("latin-1")),
    Decimal: ("Decimal", str),
    date: ("date", date.isoformat),
}
_FROM_SEQUENCE: dict[str, Callable[[list[Any]], Any]] = {name: kind for kind, name in _SEQUENCES.items()}
_FROM_MAPPING: dict[str, Callable[[list[Any]], Any]] = {
    "dict": dict,
    "Counter": lambda pairs: Counter(dict(pairs)),
    "OrderedDict": OrderedDict,
    "defaultdict": lambda pairs: defaultdict(None, pairs),
}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": lambda text: text.encode("latin-1"),
    "bytearray": lambda text: bytearray(text.encode("latin-1")),
    "Decimal": Decimal,
    "date": date.fromisoformat,
}
_FROM_CLOCK: dict[str, type[datetime] | type[time]] = {"datetime": datetime, "time": time}


def encode(value: Any, other: Other) -> Json:  # noqa: PLR0911 (a case per type)
    """`value` as JSON: its exact type decides, a subclass is not plain. RecursionError when nested too deep."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:  # decimal digits of a huge one take quadratic time
        return value if -_WORD < value < _WORD else {"t": "int", "v": hex(value)}
    if kind is list:
        return [encode(element, other) for element in value]
    if kind in _SEQUENCES:
        return {"t": _SEQUENCES[kind], "v": [encode(element, other) for element in value]}
    if kind in _MAPPINGS:
        pairs = [[encode(key, other), encode(element, other)] for key, element in kind.items(value)]
        return {"t": _MAPPINGS[kind], "v": pairs}
    if kind in _TEXTS:
        tag, text = _TEXTS[kind]
        return {"t": tag, "v": text(value)}
    return _encode_rare(value, kind, other)


def _encode_rare(value: Any, kind: type, other: Other) -> Json:  # noqa: PLR0911 (a case per type)
    if kind is complex:
        return {"t": "complex", "v": [value.real, value.imag]}
    if kind is range:
        return {"t": "range", "v": [encode(bound, other) for bound in (value.start, value.stop, value.step)]}
    if kind is Fraction:
        return {"t": "Fraction", "v": [encode(part, other) for part in (value.numerator, value.denominator)]}
    if kind is timedelta:
        return {"t": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    if kind is datetime or kind is time:
        told = [value.isoformat(), value.fold]
        # ISO 8601 knows an offset but not whose it is: a named zone is not plain
        return {"t": kind.__name__, "v": told} if repr(_clock(kind, *told)) == repr(value) else other(value)
    if kind.__bases__ == (tuple,) and hasattr(kind, "_fields"):
        elements = [encode(element, other) for element in tuple.__iter__(value)]
        return {"t": "namedtuple", "v": [kind.__name__, list(kind._fields), elements]}
    return other(value)


def decode(data: Json, other: Other) -> Any:
    """The value that `data` tells. Raises ValueError (or TypeError, KeyError, …) for what `encode` cannot write."""
    if isinstance(data, list):
        return [decode(element, other) for element in data]
    if not isinstance(data, dict):
        return data
    tag, told = data["t"], data["v"]
    if tag in _FROM_SEQUENCE:
        return _FROM_SEQUENCE[tag]([decode(element, other) for element in told])
    if tag in _FROM_MAPPING:
        return _FROM_MAPPING[tag]([(decode(key, other), decode(element, other)) for key, element in told])
    if tag in _FROM_TEXT:
        return _FROM_TEXT[tag](told)
    return _decode_rare(data, other)


def _decode_rare(data: Json, other: Other) -> Any:  # noqa: PLR0911 (a case per type)
    tag, told = data["t"], data["v"]
    if tag == "complex":
        return complex(*told)
    if tag == "range":
        return range(*(decode(bound, other) for bound in told))
    if tag == "Fraction":
        return Fraction(*(decode(part, other) for part in told))
    if tag == "timedelta":
        days, seconds, microseconds = told
        return timedelta(days, seconds, microseconds)
    if tag in _FROM_CLOCK:
        return _clock(_FROM_CLOCK[tag], *told)
    if tag == "namedtuple":
        name, fields, elements = told
        if not all(word.isidentifier() and not keyword.iskeyword(word) for word in (name, *fields)):
            raise ValueError("a namedtuple with impossible names")
        return namedtuple(name, fields)(*(decode(element, other) for element in elements))
    return other(data)


def _clock(kind: type[datetime] | type[time], iso: str, fold: int) -> datetime | time:
    return kind.fromisoformat(iso).replace(fold=fold)
