"""Runs a program and then answers questions about what it defined: call this, get that attribute, iterate.

Everything here shares a process with untrusted code, so nothing here is trusted: it only turns the program's values
into plain data, and the other side takes nothing else.
"""

import builtins
import operator
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from srpo_core.sandbox.inside.peer import Message, Peer
from srpo_core.sandbox.inside.plain import Json, decode, encode

CHANNEL = 4
_MUTABLE = (list, dict, set, bytearray, deque)
_MESSAGE = 300
_PLAIN: tuple[Any, ...] = (getattr, setattr, len, iter, next, bool, str, repr, int, float)
_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{function.__name__: function for function in _PLAIN},
    "is": isinstance,
    "get": operator.getitem,
    "set": operator.setitem,
}


def main(job: dict[str, Any]) -> None:
    """Entry of a sandboxed process: `job` holds `code` and `limit` (bytes of a message)."""
    server = _Server(job["limit"])
    try:
        compiled = compile(job["code"], "program.py", "exec", dont_inherit=True)
    except BaseException as error:
        server.peer.send({"refused": told(error)})
        return
    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compiled, module.__dict__)
    except BaseException as error:
        server.peer.send(raised(error))
        return
    server.names = module.__dict__
    server.peer.send({"names": [name for name in module.__dict__ if type(name) is str and name[:2] != "__"]})
    server.peer.serve()


def told(error: BaseException) -> str:
    """A bounded line about an exception."""
    line = next((frame.lineno for frame in _frames(error) if frame.name == "program.py"), None)
    place = f" (line {line})" if line is not None else ""
    return f"{type(error).__name__}: {error}"[:_MESSAGE] + place


def raised(error: BaseException) -> Message:
    """The message that tells of an exception: the names of its classes, nearest first."""
    try:
        text, line = str(error)[:_MESSAGE], told(error)
    except BaseException:
        text, line = "", type(error).__name__
    return {"raised": [kind.__name__ for kind in type(error).__mro__], "text": text, "told": line}


class _Frame(types.SimpleNamespace):
    name: str
    lineno: int


def _frames(error: BaseException) -> list[_Frame]:
    if isinstance(error, SyntaxError):
        return [_Frame(name="program.py", lineno=error.lineno)]
    frames: list[_Frame] = []
    step = error.__traceback__
    while step is not None and len(frames) < 2000:
        frames.append(_Frame(name=step.tb_frame.f_code.co_filename, lineno=step.tb_lineno))
        step = step.tb_next
    return frames[::-1]


class _Server:
    """The program's side of the channel: keeps what was handed out by number."""

    def __init__(self, limit: int) -> None:
        self.peer = Peer(CHANNEL, self.answer, limit)
        self.names: dict[str, Any] = {}
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def answer(self, question: Message) -> Message:
        """One question's answer: `value`, `stop` (an iterator's end), or `raised`."""
        try:
            if question["op"] == "call":
                return self._call(question)
            operands = [self.decode(operand) for operand in question["with"]]
            return {"value": self.encode(self._operations[question["op"]](*operands))}
        except StopIteration as error:
            return {"stop": True} if question["op"] == "next" else raised(error)
        except BaseException as error:
            return raised(error)

    @property
    def _operations(self) -> dict[str, Callable[..., Any]]:
        return _OPERATIONS | {"name": lambda name: self.names[name]}

    def _call(self, question: Message) -> Message:
        function, *arguments = [self.decode(operand) for operand in question["with"]]
        named = {name: self.decode(operand) for name, operand in question["named"]}
        result = function(*arguments, **named)
        answer: Message = {"value": self.encode(result)}
        if result is None:  # the convention of functions that work in place
            answer["changed"] = self._changed(question["with"][1:], arguments)
        return answer

    def _changed(self, before: list[Json], arguments: list[Any]) -> list[list[Json]]:
        mutable = [place for place, argument in enumerate(arguments) if type(argument) in _MUTABLE]
        after = [(place, self.encode(arguments[place])) for place in mutable]
        return [[place, now] for place, now in after if now != before[place]]

    def encode(self, value: Any) -> Json:
        return encode(value, self._hand_out)

    def decode(self, data: Json) -> Any:
        return decode(data, self._take_back)

    def _hand_out(self, value: Any) -> Json:
        named = value.__name__ if isinstance(value, type) else ""
        if named and getattr(builtins, named, None) is value:
            return {"t": "builtin", "v": named}
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return {"t": "object", "v": [self._numbers[id(value)], type(value).__name__[:80]]}

    def _take_back(self, data: Json) -> Any:
        if data["t"] == "builtin":
            return getattr(builtins, data["v"])
        if data["t"] == "function":
            return self._function(data["v"])
        return self._objects[data["v"]]

    def _function(self, number: int) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            answer = self.peer.ask({"op": "function", "of": number, "with": [self.encode(a) for a in arguments]})
            if "raised" in answer:
                kind = getattr(builtins, answer["raised"], RuntimeError)
                raise kind(answer["text"])
            return self.decode(answer["value"])

        return function
