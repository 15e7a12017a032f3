"""Processes that answer one question at a time, and that the parent may kill at any moment.

A worker is a Python module run by itself (`python -m MODULE`), not a fork: the parent has threads, and torch. Both
sides speak JSON, each message after its length in four bytes, over a socket that is the worker's standard input. The
worker ends when the socket closes, so none outlives its parent.
"""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import LifoQueue
from typing import Any, TypeVar

_LENGTH = struct.Struct("!I")
_START_SECONDS = 120.0
_T = TypeVar("_T")
_KILL_GRACE_SECONDS = 10.0


class WorkerStartError(RuntimeError):
    """A worker did not come up; its own message stands on standard error."""


class WorkerDiedError(RuntimeError):
    """A worker ended without an answer. `returncode` is its exit status, negative for a signal."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"the worker ended with status {returncode}")
        self.returncode = returncode


class WorkerTimeoutError(TimeoutError):
    """A worker did not answer in time."""


def send(connection: socket.socket, message: Any) -> None:
    """Send one message."""
    content = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(content)) + content)


def receive(connection: socket.socket) -> Any:
    """The next message; None when the other side has closed."""
    header = _receive_exactly(connection, _LENGTH.size)
    if header is None:
        return None
    content = _receive_exactly(connection, _LENGTH.unpack(header)[0])
    return None if content is None else json.loads(content)


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        part = connection.recv(min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return bytes(content)


class Worker:
    """One process. Starting it takes about a second; the first question waits for that, outside of its own limit."""

    def __init__(self, module: str, arguments: list[str]) -> None:
        """Start the module; does not wait for it."""
        self._connection, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        self._ready = False

    def ask(self, message: Any, seconds: float) -> None:
        """Send a question; sending may take so many seconds. Raises as `answer` does."""
        if not self._ready:
            self._await_start()
        self._guarded(lambda: send(self._connection, message), seconds)

    def answer(self, seconds: float) -> Any:
        """The next message of the worker, which must come within the seconds.

        Raises WorkerTimeoutError and WorkerDiedError; after these the worker is useless.
        """
        message = self._guarded(lambda: receive(self._connection), seconds)
        if message is None:
            raise WorkerDiedError(self._wait())
        return message

    def _guarded(self, step: Callable[[], _T], seconds: float) -> _T:
        try:
            self._connection.settimeout(seconds)
            return step()
        except TimeoutError:
            raise WorkerTimeoutError from None
        except ConnectionError:
            raise WorkerDiedError(self._wait()) from None

    def _await_start(self) -> None:
        try:
            self.answer(_START_SECONDS)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            command = " ".join(map(str, self._process.args)) if isinstance(self._process.args, list) else ""
            raise WorkerStartError(f"`{command}` did not start ({error}); its message stands above") from error
        self._ready = True

    def _wait(self) -> int:
        try:
            return self._process.wait(_KILL_GRACE_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its socket but lives on
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End the process at once and leave nothing of it."""
        self._process.kill()
        self._process.wait()
        self._connection.close()


class WorkerPool:
    """So many workers of one module; each is lent to one thread at a time. Started when first needed."""

    def __init__(self, module: str, arguments: list[str], *, workers: int) -> None:
        """Raises ValueError for fewer than one worker."""
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, not {workers}")
        self._module, self._arguments = module, arguments
        self._idle: LifoQueue[Worker | None] = LifoQueue()
        self._size = workers
        for _ in range(workers):
            self._idle.put(None)

    def borrow(self) -> Worker:
        """A worker that nobody else has; waits for one."""
        worker = self._idle.get()
        if worker is not None:
            return worker
        try:
            return Worker(self._module, self._arguments)
        except BaseException:
            self._idle.put(None)
            raise

    def give_back(self, worker: Worker) -> None:
        """Return a worker that can answer further questions."""
        self._idle.put(worker)

    def replace(self, worker: Worker) -> None:
        """Kill a worker; another one is started in its place at once."""
        successor: Worker | None = None
        try:
            worker.kill()
            successor = Worker(self._module, self._arguments)
        finally:
            self._idle.put(successor)

    def close(self) -> None:
        """End all workers, those in use when they are given back. The pool stays usable: it would start new ones."""
        workers = [self._idle.get() for _ in range(self._size)]
        for worker in workers:
            if worker is not None:
                with contextlib.suppress(ProcessLookupError):
                    worker.kill()
            self._idle.put(None)
