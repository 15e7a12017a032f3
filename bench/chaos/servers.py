"""A Prefect server and workers as processes of their own, as on several machines: each can be killed and started again.

docs/deployments.md, "On many", tells the same commands.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.chaos.processes import wait_until

POOLS = ("cpu", "rollout-gpu", "train-gpu")
PATIENCE_SECONDS = 300.0
_STOP_SECONDS = 30.0


def environment(url: str, home: Path, store: Path) -> dict[str, str]:
    """What server, workers and commands have in common; `home` keeps Prefect's database."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return own | {
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_API_PORT": url.rpartition(":")[2].partition("/")[0],
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "SRPO_STORE": str(store),
    }


class Daemon:
    """A process that is there until it is killed, and can be started again; its output goes to a file."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command, self._environment, self._log = command, environment, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """SIGKILL; what it started is left alone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, as an operator does; SIGKILL if that is not enough."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()


class Server(Daemon):
    """The Prefect server at a URL of the loopback."""

    def __init__(self, url: str, environment: dict[str, str], log: Path) -> None:
        port = url.rpartition(":")[2].partition("/")[0]
        super().__init__(["prefect", "server", "start", "--host", "127.0.0.1", "--port", port], environment, log)
        self._url = url

    def start(self) -> None:
        """Start it; returns once it answers."""
        super().start()
        if not wait_until(self._answers, PATIENCE_SECONDS):
            raise TimeoutError(f"no Prefect server at {self._url}: {self._log}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
            return False


def worker(pool: str, environment: dict[str, str], log: Path) -> Daemon:
    """A worker of a pool, which starts a process for each flow run."""
    return Daemon(["prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", pool], environment, log)
