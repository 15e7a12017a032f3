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
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from flows.faults import patiently

PATIENCE_SECONDS = 600.0  # a machine with much else to do
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
        """The deployed flow run of this name, if it was made; asked for until a server answers."""
        named = FlowRunFilter.model_validate({"name": {"any_": [name]}, "deployment_id": {"is_null_": False}})
        found = patiently(self.client.read_flow_runs, flow_run_filter=named)
        return found[0] if found else None

    def until_attempt(self, name: str, attempt: int) -> FlowRun:
        """The flow run of this name once that attempt at it has begun."""

        def look() -> FlowRun | None:
            flow_run = self.flow_run(name)
            return flow_run if flow_run and flow_run.run_count == attempt else None

        return eventually(look)

    def until(self, name: str, *states: str) -> FlowRun:
        """The flow run of this name once it is in one of the states; one that completed will be in no other."""

        def look() -> FlowRun | None:
            flow_run = self.flow_run(name)
            if flow_run is None or flow_run.state is None:
                return None
            state = flow_run.state.type.value
            assert state in states or state != "COMPLETED", f"{name} completed, and never was {states}"
            return flow_run if state in states else None

        return eventually(look)

    @property
    def home(self) -> Path:
        """Where Prefect keeps what it knows: its database."""
        return Path(self.pipeline.environment["PREFECT_HOME"])

    def retry(self, flow_run: FlowRun) -> None:
        """What the UI's Retry button does."""
        again: Any = Scheduled(name="AwaitingRetry")
        self.client.set_flow_run_state(flow_run.id, again, force=True)

    def start(self, run: str, settings: Path) -> FlowRun:
        """Start a run as the UI's form does."""
        request = {"name": run, "store": str(self.store), "settings": str(settings)}
        deployment = self.client.read_deployment_by_name("srpo/srpo")
        return self.client.create_flow_run_from_deployment(deployment.id, parameters={"request": request}, name=run)

    def kill(self, flow_run: FlowRun) -> None:
        """SIGKILL the process that carries out a flow run."""
        for pid in processes(f"PREFECT__FLOW_RUN_ID={flow_run.id}"):
            os.kill(pid, signal.SIGKILL)

    def kill_part(self, command: str) -> None:
        """SIGKILL the server, or a worker, by a part of its command; what leads its group stays."""
        home = self.pipeline.environment["PREFECT_HOME"]
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes(f"PREFECT_HOME={home}")}
        spaced = {pid: read.replace(b"\0", b" ").decode() for pid, read in commands.items()}
        (pid,) = (pid for pid, read in spaced.items() if command in read and "process_group" not in read)
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
def serve(directory: Path, **variables: str) -> Iterator[Served]:
    """`srpo serve` with a store and a Prefect home below `directory`, and more variables in its environment."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    own: dict[str, Any] = {"PREFECT_HOME": str(directory / "prefect"), "OMP_NUM_THREADS": "1"} | variables
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | own
    command = [sys.executable, "-m", "flows", "serve", "--port", str(port), "--store", str(directory / "runs")]
    process = subprocess.Popen(command, env=environment, cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert f":{port}" in process.stdout.readline(), "`srpo serve` did not start"
        here = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: variables.get("PREFECT_API_AUTH_STRING")}
        with temporary_settings(here), get_client(sync_client=True) as client:
            yield Served(Pipeline(environment | {"PREFECT_API_URL": url}), directory / "runs", process, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
