"""Runs sandboxed processes together, under limits that they cannot reach, and says how each ended."""

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from srpo_core.sandbox.errors import SandboxError
from srpo_core.sandbox.limits import Limits
from srpo_core.sandbox.zygote import Ended, Zygote, memory_file

Cause = Literal["exited", "signalled", "timeout", "memory", "output", "stopped"]

_GRACE_SECONDS = 10.0
_STATUS_BYTES = 4096


@dataclass
class Task:
    """One process to run: an entry's `main` with its job, fed `stdin`; `channel` is one end of a socket, or None.

    The channel is closed here once it is handed over, so that the other end sees when the process is gone. Without
    one the process gets a pipe in its place, whose first bytes come back as `Outcome.status`.
    """

    zygote: Zygote
    entry: str
    job: dict[str, Any]
    limits: Limits
    stdin: bytes = b""
    channel: socket.socket | None = None
    keep_output: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a task ended. `code` is its exit status, or the signal's number when `signalled`."""

    cause: Cause
    code: int
    output: bytes
    status: bytes
    cpu: float
    seconds: float


@dataclass
class _Running:
    task: Task
    began: float
    pipes: dict[int, bytearray] = field(default_factory=dict)
    output: int = -1
    status: int = -1
    written: int = 0
    killed: Cause | None = None
    ended: Ended | None = None
    finished: float = 0.0

    def kill(self, cause: Cause) -> None:
        if self.killed is None and self.ended is None:
            self.killed = cause
            self.task.zygote.kill()


def run_together(tasks: Sequence[Task]) -> list[Outcome]:
    """Runs the tasks at the same time, until the last one has ended; then the others are stopped.

    Raises SandboxError when a sandbox failed, or when the machine killed a process; its zygotes are to be closed.
    """
    poll = select.poll()
    runs: list[_Running] = []
    try:
        for task in tasks:
            runs.append(_start(task, poll))
        _watch(runs, poll)
        return [_outcome(run) for run in runs]
    finally:
        for run in runs:
            for descriptor in run.pipes:
                os.close(descriptor)


def _start(task: Task, poll: select.poll) -> _Running:
    with contextlib.ExitStack() as ours:
        job = ours.enter_context(memory_file(json.dumps(task.job).encode()))
        stdin = ours.enter_context(memory_file(task.stdin))
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        ours.callback(os.close, nowhere)
        run = _Running(task, time.monotonic())
        descriptors = [stdin.fileno(), -1, nowhere, job.fileno()]
        run.output, descriptors[1] = _pipe(run, ours)
        if task.channel is None:
            run.status, theirs = _pipe(run, ours)
            descriptors.append(theirs)
        else:
            descriptors.append(ours.enter_context(task.channel).fileno())
        try:
            task.zygote.start(task.entry, task.limits, descriptors)
        except SandboxError:
            for descriptor in run.pipes:
                os.close(descriptor)
            raise
    for descriptor in run.pipes:
        poll.register(descriptor, select.POLLIN)
    poll.register(task.zygote, select.POLLIN)
    return run


def _pipe(run: _Running, ours: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)  # without isolation a process that was left behind may hold the other end
    ours.callback(os.close, writing)
    run.pipes[reading] = bytearray()
    return reading, writing


def _watch(runs: list[_Running], poll: select.poll) -> None:
    owner = {descriptor: run for run in runs for descriptor in (*run.pipes, run.task.zygote.fileno())}
    while any(run.ended is None for run in runs):
        for descriptor, _ in poll.poll(_milliseconds_left(runs)):
            run = owner[descriptor]
            if descriptor in run.pipes:
                if not _read(run, descriptor):
                    poll.unregister(descriptor)
            else:
                run.ended = run.task.zygote.ended()
                run.finished = time.monotonic()
                poll.unregister(descriptor)
        if runs[-1].ended is not None:
            for run in runs:
                run.kill("stopped")
    for run in runs:  # what was still in the pipes; nobody writes any more
        for descriptor in run.pipes:
            while _read(run, descriptor):
                pass


def _milliseconds_left(runs: list[_Running]) -> float:
    """Until the next limit; kills whose time is over. Raises SandboxError when that does not help."""
    now = time.monotonic()
    left = [_GRACE_SECONDS]
    for run in runs:
        if run.ended is None:
            to_the_limit = run.began + run.task.limits.wall_seconds - now
            if to_the_limit <= 0:
                run.kill("timeout")
            if to_the_limit <= -_GRACE_SECONDS:
                raise SandboxError("a killed process does not end")
            left.append(to_the_limit if to_the_limit > 0 else to_the_limit + _GRACE_SECONDS)
    return 1000 * min(left) + 1


def _read(run: _Running, descriptor: int) -> bool:
    """Takes what is there; False at the end, or when more is not wanted."""
    if run.killed == "output":
        return False
    try:
        part = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return False
    if descriptor == run.output:
        run.written += len(part)
        if run.written > run.task.limits.output_bytes:
            run.kill("output")
            run.killed = "output"
            return False
        if run.task.keep_output:
            run.pipes[descriptor] += part
    elif len(run.pipes[descriptor]) < _STATUS_BYTES:
        run.pipes[descriptor] += part
    return bool(part)


def _outcome(run: _Running) -> Outcome:
    ended, limits = run.ended, run.task.limits
    if ended is None:
        raise SandboxError("a process was not waited for")
    cause, code = _cause(run.killed, ended, limits)
    status = bytes(run.pipes[run.status]) if run.status >= 0 else b""
    return Outcome(cause, code, bytes(run.pipes[run.output]), status, ended.cpu, run.finished - run.began)


def _cause(killed: Cause | None, ended: Ended, limits: Limits) -> tuple[Cause, int]:
    if ended.files:
        return "memory", 0
    if killed is not None and killed != "stopped":
        return killed, 0
    number = os.WTERMSIG(ended.status) if os.WIFSIGNALED(ended.status) else 0
    if number == signal.SIGXCPU or ended.cpu > limits.cpu_seconds:
        return "timeout", number
    if killed == "stopped" and number == signal.SIGKILL:  # else it had ended by itself, just before
        return "stopped", number
    if number == signal.SIGKILL:  # not ours, and a job cannot send it
        if ended.peak > 0.9 * limits.memory_bytes:
            return "memory", number
        raise SandboxError("the machine killed a process that was within its limits: is memory short?")
    return ("signalled", number) if number else ("exited", os.WEXITSTATUS(ended.status))
