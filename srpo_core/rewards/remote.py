"""The tests' view of a value that stayed in the candidate's process. Runs inside the checker's sandbox.

A `Remote` may be called, read and iterated: each is a question, and the answer is plain data. It never judges: it
equals nothing but itself, and takes part in no comparison, membership test or arithmetic, for those would let the
candidate decide about an expected value, and would show it.
"""

import builtins
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from srpo_core.sandbox.inside.peer import Message, Peer
from srpo_core.sandbox.inside.plain import Json, decode, encode

_IN_PLACE: dict[type, Callable[[Any, Any], None]] = {
    list: lambda old, new: old.__setitem__(slice(None), new),
    bytearray: lambda old, new: old.__setitem__(slice(None), new),
    dict: lambda old, new: (old.clear(), old.update(new))[0],
    set: lambda old, new: (old.clear(), old.update(new))[0],
    deque: lambda old, new: (old.clear(), old.extend(new))[0],
}
_TYPES = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range, set, str, tuple, type)
_NAMED_TYPES = {kind.__name__: kind for kind in _TYPES}
_Plain = TypeVar("_Plain")
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class CandidateError(Exception):
    """The candidate raised what no test should see as what it is: SystemExit, StopIteration, its own class."""


class CannotCrossError(Exception):
    """The tests pass something to the candidate that is no plain data: the tests are at fault, not the candidate."""


class Candidate:
    """The candidate's process, as the checker asks it."""

    def __init__(self, channel: int, limit: int) -> None:
        self.peer = Peer(channel, self._answer, limit)
        self._functions: list[Callable[..., Any]] = []
        self.at_fault: CannotCrossError | None = None

    def name(self, name: str) -> Any:
        """What the candidate's program calls so."""
        return self.ask("name", name)

    def ask(self, operation: str, *operands: Any) -> Any:
        """The answer to one question, as plain data or a Remote. Raises what the candidate raised, or ChannelError."""
        return self._value(self.peer.ask({"op": operation, "with": [self._encode(o) for o in operands]}))

    def call(self, function: "Remote", arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The result of a call. When it is None, lists and the like among the arguments are changed as there."""
        operands = [self._encode(operand) for operand in (function, *arguments)]
        pairs = [[name, self._encode(operand)] for name, operand in named.items()]
        answer = self.peer.ask({"op": "call", "with": operands, "named": pairs})
        value = self._value(answer)
        if value is None:
            self._change(arguments, answer.get("changed", []))
        return value

    def next(self, iterator: "Remote") -> tuple[bool, Any]:
        """Whether there was a next element, and it."""
        answer = self.peer.ask({"op": "next", "with": [self._encode(iterator)]})
        return (False, None) if answer.get("stop") is True else (True, self._value(answer))

    def _value(self, answer: Message) -> Any:
        if "raised" in answer:
            raise raised_here(answer)
        try:
            return self._decode(answer["value"])
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self.peer.refuse(f"its answer is no plain data: {type(error).__name__}") from error

    def _change(self, arguments: tuple[Any, ...], changed: Json) -> None:
        try:
            for place, data in changed:
                now, target = self._decode(data), arguments[place]
                if type(now) is not type(target):
                    raise TypeError("another type")
                _IN_PLACE[type(target)](target, now)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self.peer.refuse("it changed an argument into what is no plain data") from error

    def _answer(self, question: Message) -> Message:
        """The candidate calls a function that the tests passed to it; it may do nothing else."""
        try:
            function = self._functions[question["of"]]
            arguments = [self._decode(data) for data in question["with"]]
            return {"value": self._encode(function(*arguments))}
        except Exception as error:
            return {"raised": type(error).__name__, "text": str(error)[:300]}

    def _encode(self, value: Any) -> Json:
        return encode(value, self._reference)

    def _decode(self, data: Json) -> Any:
        return decode(data, self._remote)

    def _reference(self, value: Any) -> Json:
        if type(value) is Remote:
            return {"t": "object", "v": number_of(value)}
        named = getattr(value, "__name__", None)
        if isinstance(named, str) and getattr(builtins, named, None) is value:
            return {"t": "builtin", "v": named}
        if isinstance(value, _FUNCTIONS):
            self._functions.append(value)
            return {"t": "function", "v": len(self._functions) - 1}
        kind = type(value).__name__
        self.at_fault = CannotCrossError(f"the tests pass a {kind}, which cannot cross to the candidate")
        raise self.at_fault

    def _remote(self, data: Json) -> Any:
        if data["t"] == "builtin":
            return _NAMED_TYPES[data["v"]]
        if data["t"] != "object":
            raise ValueError("an unknown tag")
        number, kind = data["v"]
        if type(number) is not int or type(kind) is not str:
            raise ValueError("a malformed reference")
        return Remote(self, number, kind)


class Remote:
    """A value in the candidate's process."""

    __slots__ = ("_candidate", "_kind", "_number")

    def __init__(self, candidate: Candidate, number: int, kind: str) -> None:
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)

    def __eq__(self, other: object) -> bool:
        return type(other) is Remote and number_of(self) == number_of(other)

    def __hash__(self) -> int:
        return hash(number_of(self))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Calls it there."""
        return _of(self).call(self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return _of(self).ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _of(self).ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return _of(self).ask("get", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _of(self).ask("set", self, key, value)

    def __iter__(self) -> Iterator[Any]:
        iterator = _of(self).ask("iter", self)
        if type(iterator) is not Remote:
            raise CandidateError("an iterator that is none")
        while True:
            there, element = _of(self).next(iterator)
            if not there:
                return
            yield element

    def __next__(self) -> Any:
        there, element = _of(self).next(self)
        if not there:
            raise StopIteration
        return element

    def __contains__(self, wanted: object) -> bool:
        return any(element is wanted or element == wanted for element in self)

    def __instancecheck__(self, value: object) -> bool:
        return type(value) is Remote and _of(self).ask("is", value, self) is True

    def __len__(self) -> int:
        return self._plain("len", int)

    def __bool__(self) -> bool:
        return self._plain("bool", bool)

    def __str__(self) -> str:
        return self._plain("str", str)

    def __repr__(self) -> str:
        return self._plain("repr", str)

    def __int__(self) -> int:
        return self._plain("int", int)

    def __float__(self) -> float:
        return self._plain("float", float)

    def _plain(self, operation: str, kind: type[_Plain]) -> _Plain:
        value = _of(self).ask(operation, self)
        if type(value) is not kind:
            raise CandidateError(f"{operation}() of its {object.__getattribute__(self, '_kind')} is no {kind.__name__}")
        return value


def number_of(remote: Remote) -> int:
    """Which of the candidate's values it is."""
    return int(object.__getattribute__(remote, "_number"))


def raised_here(answer: Message) -> Exception:
    """What the candidate raised, as the nearest built-in exception; nothing that ends an iteration or the process."""
    told = str(answer.get("told", ""))[:400]
    error: Exception = CandidateError(told)
    for name in answer["raised"] if isinstance(answer["raised"], list) else []:
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            continue
        if issubclass(kind, Exception) and not issubclass(kind, (StopIteration, StopAsyncIteration)):
            try:
                error = kind(str(answer.get("text", ""))[:400])
            except TypeError:  # it wants other arguments, as UnicodeDecodeError does
                continue
        break
    error.candidate_told = told  # type: ignore[attr-defined]
    return error


def _of(remote: Remote) -> Candidate:
    candidate: Candidate = object.__getattribute__(remote, "_candidate")
    return candidate
