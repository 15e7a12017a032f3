"""Prefect's API over SQLite, which does again at once what met a locked database.

SQLite has one writer. A request that has read when another one commits cannot write any more (SQLITE_BUSY_SNAPSHOT):
the server has done nothing and answers 503. Prefect's client then waits 2 seconds, its UI shows an error. Done again,
the request reads anew, so it is here that it is done again.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

TRIES = 20
"""After these the client gets its 503, and waits as it would have."""
_PAUSE_SECONDS = 0.05
_UNAVAILABLE = 503


class DoingAgain:
    """An ASGI application that does a request again when `app` answers 503 to it, `TRIES` times in all."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._one_at_a_time = asyncio.Lock()  # those that met each other would meet again

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].endswith("/ready"):  # whose 503 is what was asked for
            return await self._app(scope, receive, send)
        request = _Request(receive)
        if await self._answered(scope, request, send):
            return None
        async with self._one_at_a_time:
            for _ in range(TRIES - 2):
                await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))
                if await self._answered(scope, request, send):
                    return None
        return await self._app(scope, request.again(), send)

    async def _answered(self, scope: MutableMapping[str, Any], request: "_Request", send: Send) -> bool:
        """Whether the application answered otherwise than 503, which is passed on."""
        answer = _Answer(send)
        try:
            await self._app(dict(scope), request.again(), answer.send)
        except Exception:  # raised again after it was answered, for the server's log
            if not answer.is_unavailable:
                raise
        return not answer.is_unavailable


class _Request:
    """A request's messages, which can be received again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._received: list[Message] = []

    def again(self) -> Receive:
        """Receives it from its beginning."""
        position = 0

        async def receive() -> Message:
            nonlocal position
            if position == len(self._received):
                self._received.append(await self._receive())
            position += 1
            return self._received[position - 1]

        return receive


class _Answer:
    """An answer that is passed on, unless it is 503."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_unavailable = False

    async def send(self, message: Message) -> None:
        """Take a message of the application's."""
        if message["type"] == "http.response.start":
            self.is_unavailable = message["status"] == _UNAVAILABLE
        if not self.is_unavailable:
            await self._send(message)


def create_app() -> App:
    """Prefect's server as its settings say, for uvicorn's `--factory`."""
    from prefect.server.api.server import create_app as create_prefect_app

    return DoingAgain(create_prefect_app())
