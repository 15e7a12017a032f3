"""Two processes that ask each other questions over one channel: frames of JSON, one question at a time.

While one side waits for an answer it answers the other's questions, so that a function of one side may be called by
the other in the middle of a call.
"""

import json
import os
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
_HEAD = 4


class ChannelError(Exception):
    """The other side is gone, or what it sent cannot be read. It stays: every later question raises it again."""


class TooMuchError(ChannelError):
    """The other side sent more than is allowed."""


class Peer:
    """One end of the channel. `answer` answers the other side's questions (messages that carry `op`)."""

    def __init__(self, descriptor: int, answer: Callable[[Message], Message], limit: int) -> None:
        self._descriptor = descriptor
        self._answer = answer
        self._limit = limit
        self.broken: ChannelError | None = None

    def ask(self, question: Message) -> Message:
        """The other side's answer. Raises ChannelError."""
        self.send(question)
        while True:
            message = self.receive()
            if "op" not in message:
                return message
            self.send(self._answer(message))

    def serve(self) -> None:
        """Answers questions until the other side is gone."""
        while True:
            try:
                message = self.receive()
            except ChannelError:
                return
            self.send(self._answer(message))

    def send(self, message: Message) -> None:
        """Writes one frame. Raises ChannelError when nobody reads it."""
        body = json.dumps(message).encode()
        rest = memoryview(len(body).to_bytes(_HEAD, "little") + body)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                raise self._break(ChannelError("the other side is gone")) from error

    def receive(self) -> Message:
        """Reads one frame. Raises ChannelError."""
        if self.broken:
            raise self.broken
        size = int.from_bytes(self._read(_HEAD), "little")
        if size > self._limit:
            raise self._break(TooMuchError(f"a message of {size:,} bytes, allowed are {self._limit:,}"))
        try:
            message = json.loads(self._read(size))
        except (ValueError, RecursionError) as error:
            raise self._break(ChannelError(f"what arrived is no message: {type(error).__name__}")) from error
        if not isinstance(message, dict):
            raise self._break(ChannelError("what arrived is no message"))
        return message

    def refuse(self, why: str) -> ChannelError:
        """Gives the other side up for what it sent; the caller raises the result."""
        return self._break(ChannelError(why))

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.read(self._descriptor, min(size, 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise self._break(ChannelError("the other side is gone"))
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _break(self, error: ChannelError) -> ChannelError:
        self.broken = self.broken or error
        return error
