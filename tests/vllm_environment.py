"""The environment that has vLLM, and the processes of a server that a test started."""

import os
import select
import signal
from pathlib import Path

import pytest

MARK = "SRPO_TEST_SERVER"
SERVER = b"vllm.entrypoints.openai.api_server"


def vllm_python() -> str:
    """The Python that has vLLM; skips the test where the machine names none."""
    if "SRPO_VLLM_PYTHON" not in os.environ:
        pytest.skip("NOT TESTED with vLLM: `make vllm`, then SRPO_VLLM_PYTHON=$PWD/.vllm/bin/python")
    return os.environ["SRPO_VLLM_PYTHON"]


def marked(name: str) -> list[int]:
    """The processes with `name` in their environment under MARK: a server's, whatever they call themselves."""
    wanted = f"{MARK}={name}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended, or is none of ours
            continue
    return found


def all_end(processes: list[int], seconds: float) -> bool:
    """Whether all of these processes end within the time; waits for that."""
    for process in processes:
        try:
            handle = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], seconds)[0]:
                return False
        finally:
            os.close(handle)
    return True


def kill_server(name: str) -> None:
    """SIGKILL to the process that answers requests."""
    commands = {process: Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0") for process in marked(name)}
    (server,) = [process for process, command in commands.items() if command[1:3] == [b"-m", SERVER]]
    os.kill(server, signal.SIGKILL)
