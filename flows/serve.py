"""Everything of the `deployments` mode on one machine: a Prefect server with its UI, the deployments, the workers.

Each process is in a group of its own, out of the terminal's reach, together with whatever it starts: when this process
ends, every group is ended: all the workers' at once, and after them the server's, which their flow runs still tell.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flows.prefect_file import read_pools
from flows.prefect_server import START_SECONDS, ServerError, server_authentication
from flows.process_group import GRACE_SECONDS
from flows.runs import RunError

_GRACE_SECONDS = GRACE_SECONDS + 5
_POLL_SECONDS = 0.5
_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # a stage waits this long at most for its worker; Prefect's default is 10
}


@dataclass(frozen=True)
class Served:
    """What runs while a store is served."""

    url: str
    pools: Sequence[Mapping[str, Any]]
    logs: Path
    processes: Mapping[str, subprocess.Popen[bytes]]

    def wait_for_an_end(self) -> None:
        """Return only by an interrupt. Raises RunError when one of the processes fails, naming its log."""
        while all(process.poll() is None for process in self.processes.values()):
            time.sleep(_POLL_SECONDS)
        ended = next(name for name, process in self.processes.items() if process.poll() is not None)
        raise RunError(f"the {ended} ended by itself: {self.logs / ended}.log tells why")


@contextmanager
def served(file: Path, store: Path, host: str, port: int) -> Iterator[Served]:
    """A server at `port` of this machine's address `host`, and a worker for each pool of `file`, while the block runs.

    Raises ServerError when the server does not start, RunError when the store cannot be written or the file is refused.
    """
    require_free(host, port)
    logs = store.absolute() / ".serve"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{logs}: cannot be made: {error.strerror}; --store names the directory of the runs") from error
    pools, url = read_pools(file), f"http://{host}:{port}"
    environment = _environment(store, url)
    with _groups() as server, _groups() as workers:
        server["server"] = _begin(_server(host, port), environment, logs / "server.log")
        _await_answer(server["server"], url, logs / "server.log")
        _apply(file, store, environment)
        for name in (pool["name"] for pool in pools):
            workers[f"worker-{name}"] = _begin(_worker(name), environment, logs / f"worker-{name}.log")
        yield Served(url, pools, logs, server | workers)


def require_free(host: str, port: int) -> None:
    """Raises ServerError when no server can listen at this port of this machine's address `host`."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: the last one's port lingers
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ServerError(
                f"port {port} of {host} cannot be listened at: {error.strerror}; choose another by --port or --host"
            ) from error


def _environment(store: Path, url: str) -> dict[str, str]:
    # What the command sets to keep Prefect off its own terminal is not meant for the workers' logs.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_LOGGING_")}
    own["PATH"] = f"{Path(sys.executable).parent}:{own.get('PATH', os.defpath)}"  # where flow runs find this Python
    address = {"PREFECT_API_URL": f"{url}/api", "PREFECT_SERVER_API_PORT": url.rpartition(":")[2]}
    secret = server_authentication()
    clients = {} if secret is None else {"PREFECT_API_AUTH_STRING": secret}
    return own | _SETTINGS | address | clients | {"SRPO_STORE": str(store.absolute())}


def _server(host: str, port: int) -> list[str]:
    options = ["--host", host, "--port", str(port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", "--factory", "flows.locked_database:create_app", *options]


def _worker(pool: str) -> list[str]:
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", pool]


def _apply(file: Path, store: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flows", "deploy", "--store", str(store), "--prefect-file", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.removeprefix("srpo: ").strip())


def _await_answer(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerError(f"the Prefect server ended with status {server.returncode} at {url}: see {log}")
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ServerError(f"the Prefect server did not answer at {url} within {START_SECONDS:.0f} s: see {log}")


@contextmanager
def _groups() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes that each lead a group of their own, once they are put in; all the groups are gone after the block."""
    leaders: dict[str, subprocess.Popen[bytes]] = {}
    try:
        yield leaders
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave anything behind
        _end(list(leaders.values()))


def _begin(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with _opened(log) as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.process_group", str(os.getpid()), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _opened(log: Path) -> BinaryIO:
    try:
        return log.open("ab")
    except OSError as error:
        raise RunError(f"{log}: cannot be written: {error.strerror}") from error


def _end(leaders: Sequence[subprocess.Popen[bytes]]) -> None:
    """End their groups, all at the same time: what is asked to end ends within a while, or is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for leader in leaders:
            with suppress(ProcessLookupError):
                os.killpg(leader.pid, number)
        deadline = time.monotonic() + _GRACE_SECONDS
        for leader in leaders:
            with suppress(subprocess.TimeoutExpired):
                leader.wait(max(0.0, deadline - time.monotonic()))
