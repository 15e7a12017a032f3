"""Requests spread over servers: the least busy takes the next one, the dead are left out until they are back.

A request that its server did not answer is asked again, of whichever server is free, after a pause that doubles and is
drawn anew each time, so that the servers are not all asked at once. A server that failed is left out until it answers
again and, unless it is the same process with the same weights, was handed the version over and proved to serve it.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from srpo_core.rollout.errors import EngineError, EngineUnavailableError
from srpo_core.rollout.vllm_server import ServerLostError, Version, VllmServer

Result = TypeVar("Result")
Job = Callable[[VllmServer], Awaitable[Result]]

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
# A request that made so many servers fail is at fault itself.
ATTEMPTS = 6


class ServerPool:
    """The servers of one engine, `requests_per_server` requests under way on each at most."""

    def __init__(self, servers: Sequence[VllmServer], *, requests_per_server: int, patience_seconds: float) -> None:
        self._servers = servers
        self._limit = requests_per_server
        self._patience = patience_seconds
        self._changed = asyncio.Condition()
        self._version: Version | None = None

    async def hand_over(self, version: Version) -> None:
        """Give `version` to every server that answers; returns when one at least serves it, and is proved to.

        Raises StaleWeightsError or another EngineError from any server, EngineUnavailableError when none answers
        within the patience.
        """
        self._version = version
        for server in self._servers:
            server.ready = False
        async with _first_error(), asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(self._try_hand_over(server, version))
        await self.run([_nothing])

    async def run(self, jobs: Sequence[Job[Result]]) -> list[Result]:
        """The results of all jobs, in their order. Raises EngineError when one cannot be done."""
        version = self._wanted()
        async with _first_error(), asyncio.TaskGroup() as group:
            keepers = [group.create_task(self._bring_back(server, version)) for server in self._servers]
            under_way = [group.create_task(self._do(job)) for job in jobs]
            results = [await task for task in under_way]
            for keeper in keepers:
                keeper.cancel()
        return results

    async def sleep(self) -> None:
        """Let every server that serves free its memory; the next hand-over wakes it."""
        async with _first_error(), asyncio.TaskGroup() as group:
            for server in self._servers:
                if server.ready:
                    group.create_task(server.sleep())

    @property
    def probe_difference(self) -> float:
        """The largest difference to the trainer that a server in use had at its last proof, in nats."""
        return max((server.probe_difference for server in self._servers if server.ready), default=0.0)

    def _wanted(self) -> Version:
        if self._version is None:
            raise RuntimeError("load a policy before generating")
        return self._version

    async def _do(self, job: Job[Result]) -> Result:
        for attempt in range(ATTEMPTS):
            server = await self._take()
            try:
                return await job(server)
            except ServerLostError as error:
                trouble = server.trouble = str(error)
                server.ready = False
            finally:
                server.outstanding -= 1
                await self._tell()
            await asyncio.sleep(_pause(attempt))
        raise EngineError(
            f"a request failed on {ATTEMPTS} attempts, at last on {server.url} ({trouble}): the servers' logs say why"
        )

    async def _take(self) -> VllmServer:
        """The ready server with the fewest requests under way, when one has room for another."""
        async with self._changed:
            waited_from = time.monotonic()
            while True:
                ready = [server for server in self._servers if server.ready]
                free = min(ready, key=lambda server: server.outstanding, default=None)
                if free is not None and free.outstanding < self._limit:
                    free.outstanding += 1
                    return free
                if ready:
                    await self._changed.wait()
                    waited_from = time.monotonic()
                    continue
                try:
                    left = waited_from + self._patience - time.monotonic()
                    await asyncio.wait_for(self._changed.wait(), max(left, 0.0))
                except TimeoutError:
                    raise self._nobody() from None

    def _nobody(self) -> EngineUnavailableError:
        troubles = "; ".join(f"{server.url}: {server.trouble}" for server in self._servers)
        return EngineUnavailableError(
            f"no vLLM server answered for {self._patience:.0f} seconds ({troubles}): start one and resume"
        )

    async def _bring_back(self, server: VllmServer, version: Version) -> None:
        """Whenever the server is out, try until it is back."""
        attempt = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: not server.ready)
            await asyncio.sleep(_pause(attempt))
            attempt = 0 if await self._try_hand_over(server, version, recovering=True) else attempt + 1

    async def _try_hand_over(self, server: VllmServer, version: Version, *, recovering: bool = False) -> bool:
        try:
            if not (recovering and await server.serves(version)):
                await server.hand_over(version)
        except ServerLostError as error:
            server.trouble = str(error)
            return False
        server.ready = True
        await self._tell()
        return True

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def _first_error() -> AsyncIterator[None]:
    """Raise the first error of a task group as itself."""
    try:
        yield
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _nothing(server: VllmServer) -> None:
    """The job that any ready server does."""


def _pause(attempt: int) -> float:
    longest: float = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**attempt)
    return longest * random.uniform(0.5, 1.0)
