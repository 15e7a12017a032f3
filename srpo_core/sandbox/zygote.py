"""The host's handle on one warm sandboxed interpreter."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from srpo_core.sandbox.errors import SandboxError
from srpo_core.sandbox.limits import Limits
from srpo_core.sandbox.profile import Profile, environment, launch_command, texts

_START_SECONDS = 60.0
_END_SECONDS = 10.0

# The kernel ties "die with the parent" to the thread that started a process: this one lasts as long as the program.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="sandbox-spawner")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its wait status, processor seconds, peak resident bytes; `files` when it made too many."""

    status: int
    cpu: float
    peak: int
    files: bool


class Zygote:
    """A sandboxed interpreter that forks a process per job. For one job at a time, from any thread."""

    def __init__(self, profile: Profile, entries: Sequence[str]) -> None:
        """Starts it; `entries` are the modules whose `main` jobs may name. Raises SandboxError when it does not."""
        self.jobs = 0
        self.clean = True
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, memory_file(json.dumps(texts(entries)).encode()) as sources:
            command = launch_command(profile, entries, theirs.fileno(), sources.fileno())
            descriptors = (theirs.fileno(), sources.fileno())
            self._process = _SPAWNER.submit(_spawn, command, environment(profile), descriptors).result()
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when the job has ended, or the zygote has."""
        return self._control.fileno()

    def start(self, entry: str, limits: Limits, descriptors: Sequence[int]) -> None:
        """Forks a process: descriptors are its stdin, stdout, stderr, job (JSON), and what the entry wants more.

        Raises SandboxError when the zygote is gone.
        """
        order = json.dumps({"entry": entry, "limits": asdict(limits)}).encode()
        self.jobs += 1
        try:
            socket.send_fds(self._control, [order], list(descriptors))
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error}") from error

    def kill(self) -> None:
        """Kills the running job; its end is told as any other."""
        with contextlib.suppress(OSError):
            self._control.send(b"kill")

    def ended(self) -> Ended:
        """How the job ended; waits for it. Raises SandboxError when the zygote is gone, or could not lock the job."""
        try:
            message = self._control.recv(1 << 16)
        except OSError as error:
            raise SandboxError(f"the sandbox does not answer: {error}") from error
        if not message:
            raise SandboxError("the sandbox ended unexpectedly")
        told = json.loads(message)
        self.clean = self.clean and told["clean"]
        if told["started"] != "+":
            raise SandboxError(f"a job could not be locked: {told['started'] or 'it died'}")
        return Ended(told["status"], told["cpu"], told["peak"], told["files"])

    def close(self) -> None:
        """Ends it and everything in it; returns when it is gone."""
        self._control.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()

    def _await_ready(self) -> None:
        self._control.settimeout(_START_SECONDS)
        try:
            told = self._control.recv(16)
        except OSError as error:
            raise SandboxError(f"the sandbox did not start within {_START_SECONDS:.0f} s: {error}") from error
        if told != b"ready":
            raise SandboxError(f"the sandbox did not start: {self._last_words()}")

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        if self._process.returncode is None or self._process.stderr is None:
            return "it is silent"
        lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:400] if lines else f"status {self._process.returncode}"


def memory_file(content: bytes) -> "_MemoryFile":
    """A sealed file in memory: who gets its descriptor can read it and nothing else."""
    return _MemoryFile(content)


class _MemoryFile:
    def __init__(self, content: bytes) -> None:
        self._file = os.fdopen(os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b", buffering=0)
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]
        import fcntl

        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, seals)
        self._file.seek(0)

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> "_MemoryFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _spawn(command: list[str], env: dict[str, str], descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        start_new_session=True,
    )
