"""Requests that meet a locked database are done again by the server itself; the client does not see it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest
from pipeline_process import HERE, Pipeline

from flows import locked_database
from flows.locked_database import TRIES, DoingAgain, Receive, Send


class Locked:
    """An application that is locked for so many requests, then answers with what it was sent."""

    def __init__(self, times: int, *, raises: bool = False) -> None:
        self.times, self.raises, self.bodies = times, raises, list[bytes]()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        locked = len(self.bodies) <= self.times
        await send({"type": "http.response.start", "status": 503 if locked else 201, "headers": []})
        await send({"type": "http.response.body", "body": b"locked" if locked else body})
        if locked and self.raises:
            raise RuntimeError("as Prefect's server does after it has answered")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else writes here, so there is nothing to wait for."""
    monkeypatch.setattr(locked_database, "_PAUSE_SECONDS", 0.0)


def ask(app: DoingAgain, path: str = "/api/flow_runs/") -> httpx.Response:
    async def sent() -> httpx.Response:
        async def parts() -> Any:
            yield b"in "
            yield b"parts"

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await client.post(path, content=parts())

    return asyncio.run(sent())


@pytest.mark.parametrize("times", [0, 1, 2, TRIES - 1])
@pytest.mark.parametrize("raises", [False, True])
def test_a_request_that_meets_a_lock_is_done_again_with_all_that_it_said(times: int, raises: bool) -> None:
    app = Locked(times, raises=raises)
    answer = ask(DoingAgain(app))
    assert (answer.status_code, answer.content) == (201, b"in parts")
    assert app.bodies == [b"in parts"] * (times + 1)


def test_a_lock_that_stays_is_told_in_the_end() -> None:
    app = Locked(10 * TRIES)
    answer = ask(DoingAgain(app))
    assert (answer.status_code, answer.content) == (503, b"locked")
    assert len(app.bodies) == TRIES


def test_an_error_that_is_not_a_lock_is_not_done_again() -> None:
    calls = []

    async def broken(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        calls.append(scope)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        ask(DoingAgain(broken))
    assert len(calls) == 1


def test_a_server_that_says_it_is_not_ready_is_believed() -> None:
    app = Locked(1)
    assert ask(DoingAgain(app), "/api/ready").status_code == 503
    assert len(app.bodies) == 1


def test_many_may_write_to_our_server_at_the_same_moment(pipeline: Pipeline) -> None:
    command = [sys.executable, str(HERE / "crowd.py"), "10"]
    done = subprocess.run(command, env=pipeline.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"201": 160}  # eight threads, ten flow runs each, and a state of each
