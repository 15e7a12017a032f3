"""Real vLLM servers for tests, where SRPO_VLLM_PYTHON names a Python that has vLLM 0.32."""

import os
import signal
import socket
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def vllm_python() -> str:
    """The Python with vLLM; skips without one."""
    python = os.environ.get("SRPO_VLLM_PYTHON")
    if not python:
        pytest.skip("NOT TESTED with vLLM: SRPO_VLLM_PYTHON names no Python that has vLLM 0.32")
    return python


class RealServer:
    """A vLLM server of the policy in `model`, starting; `wait` returns when it answers."""

    def __init__(self, model: Path, log: Path, *, dtype: str = "float32") -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        command = [
            *(vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--max-model-len", "256"),
            *("--logprobs-mode", "processed_logprobs", "--enable-scale-out", "--enforce-eager"),
        ]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, env=clean | ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait(self) -> None:
        """Return when the server answers; fails with its log when it ends before."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            with suppress(OSError), opener.open(f"{self.url}/health", timeout=5):
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.5)
                raise AssertionError(f"vLLM did not start:\n{self._log.read_text()[-3000:]}")

    def kill(self) -> None:
        """End it and the processes it started, as a failing machine would."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
