"""`srpo serve` as a process of its own, and the flow runs of its server, for tests of deployments."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline_process import HERE, Pipeline
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

PATIENCE_SECONDS = 900.0  # a machine with much else to do
POLL_SECONDS = 0.1

T = TypeVar("T")


def eventually(look: Callable[[], T | None]) -> T:
    """What `look()` gives once it gives something; a test that waits longer than patience has failed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError("waited in vain")


@dataclass(frozen=True)
class Served:
    """A Prefect server with workers, the store that they train in, and a client."""

    pipeline: Pipeline
    store: Path
    process: subprocess.Popen[str]
    client: SyncPrefectClient

    def flow_run(self, name: str) -> FlowRun | None:
        """The flow run of this name, if it was made."""
        found = self.client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [name]}}))
        return found[0] if found else None

    def until(self, name: str, *states: str) -> FlowRun:
        """The flow run of this name once it is in one of the states."""

        def look() -> FlowRun | None:
            flow_run = self.flow_run(name)
            return flow_run if flow_run and flow_run.state and flow_run.state.type.value in states else None

        return eventually(look)

    def start(self, run: str, settings: Path) -> FlowRun:
        """Start a run as the UI's form does."""
        request = {"name": run, "store": str(self.store), "settings": str(settings)}
        deployment = self.client.read_deployment_by_name("srpo/srpo")
        return self.client.create_flow_run_from_deployment(deployment.id, parameters={"request": request}, name=run)

    def kill(self, flow_run: FlowRun) -> None:
        """SIGKILL the process that carries out a flow run."""
        for pid in processes(f"PREFECT__FLOW_RUN_ID={flow_run.id}"):
            os.kill(pid, signal.SIGKILL)


def processes(variable: str) -> list[int]:
    """The processes that have this in their environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
        except OSError:
            continue  # it ended, or is not ours
    return found


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serve(directory: Path) -> Iterator[Served]:
    """`srpo serve` with a store and a Prefect home below `directory`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    own: dict[str, Any] = {"PREFECT_HOME": str(directory / "prefect"), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | own
    command = [sys.executable, "-m", "flows", "serve", "--port", str(port), "--store", str(directory / "runs")]
    process = subprocess.Popen(command, env=environment, cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert f":{port}" in process.stdout.readline(), "`srpo serve` did not start"
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            yield Served(Pipeline(environment | {"PREFECT_API_URL": url}), directory / "runs", process, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
