"""The Prefect API that a run talks to: the one that PREFECT_API_URL names, or a server of its own while it runs.

Prefect can start a temporary server itself, but that one shares our process group and terminal: Ctrl-C reached it
first and the run hung for over a minute, and SIGKILL of the run left it behind for ever (Prefect 3.8.8). This one is
out of Ctrl-C's reach, keeps its database where Prefect keeps it, and ends with the process that started it, however
that ends.
"""

import atexit
import base64
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from flows.imports import uncollected

# The console shows the run's own lines; Prefect's log still has every line.
_CLIENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}
# Task runs are written in batches: one by one, twelve of them cost 2.3 s of database locks instead of 0.5 s.
_SERVER = {
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # whole seconds: at int(0.5) it spins
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
START_SECONDS = 120.0
_AWAY_SECONDS, _LONGEST_PAUSE_SECONDS = 600.0, 60.0


class ServerError(Exception):
    """There is no Prefect API to talk to; the message says what to do."""


def quiet_prefect() -> None:
    """Keep Prefect off the terminal and off the network; what the user has set stands. Before Prefect is imported."""
    for name, value in _CLIENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_api(meanwhile: Callable[[], object] = lambda: None) -> Iterator[Callable[[], None]]:
    """Flows that are called in the block run against an API that answers. Raises ServerError when there is none.

    `meanwhile()` is called first, while a server of our own starts. Gives what to call when the API does not answer any
    more: a server of our own that has died is started again.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    end_threads_at_exit()
    # Heartbeats cost a second per flow run; they serve automations, which a server of our own does not run.
    clients: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    named = PREFECT_API_URL.value()
    if named is None:
        own = _Server()
        atexit.register(own.stop)
        own.launch()
        # Nor does it ask for tokens against forged requests, which cost a request of their own per flow run.
        clients |= {PREFECT_API_URL: own.url, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}
        clients[PREFECT_API_AUTH_STRING] = server_authentication()
        # One that is dead stays dead until it is started again, and every flow run on the way up asks it in vain: with
        # Prefect's five retries that took five minutes, with two it is less than one. A locked database needs some.
        clients[PREFECT_CLIENT_MAX_RETRIES] = 2
    else:
        check_api(named)
    with temporary_settings(clients):
        meanwhile()
        if named is None:
            own.start()
        yield own.start if named is None else partial(await_api, named)


def require_api() -> str:
    """The URL of the Prefect API that PREFECT_API_URL names. Raises ServerError when it names none, or none answers."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        raise ServerError("PREFECT_API_URL names no Prefect API: `srpo serve` starts one and prints its address")
    check_api(url)
    return str(url)


def check_api(url: str) -> None:
    """Raises ServerError when no Prefect API answers at `url`, or it wants another authentication."""
    asked = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=_authorization())
    try:
        with urllib.request.urlopen(asked, timeout=10):
            return
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise ServerError(f"PREFECT_API_URL is {url}, and no Prefect API answers there ({error})") from error
        raise ServerError(
            f"the Prefect API at {url} refuses us ({error}): set PREFECT_API_AUTH_STRING to what its server has as "
            "PREFECT_SERVER_API_AUTH_STRING"
        ) from error
    except (urllib.error.URLError, ValueError, OSError) as error:
        raise ServerError(
            f"PREFECT_API_URL is {url}, and no Prefect API answers there ({error}): "
            "start it with `prefect server start`, or unset the variable to run without one"
        ) from error


def server_authentication() -> str | None:
    """What a server that is started here wants of its clients: PREFECT_SERVER_API_AUTH_STRING; None: nothing."""
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

    secret: str | None = PREFECT_SERVER_API_AUTH_STRING.value()
    return secret


def _authorization() -> dict[str, str]:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    if key := PREFECT_API_KEY.value():
        return {"Authorization": f"Bearer {key}"}
    if secret := PREFECT_API_AUTH_STRING.value():
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    return {}


def await_api(url: str) -> None:
    """Return once the API answers at `url`. Raises ServerError when it does not within ten minutes."""
    deadline, pause = time.monotonic() + _AWAY_SECONDS, 1.0
    while True:
        try:
            check_api(url)
            return
        except ServerError:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))  # many processes must not come back at the same moment
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class _Server:
    """A server of our own, on a port of the loopback that stays the same when it has to be started again."""

    def __init__(self) -> None:
        self.url = ""
        self._port = 0  # any free one
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it unless it lives; it answers in a while. Raises ServerError."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._listen()

    def start(self) -> None:
        """Start it unless it lives, and return once it answers. Raises ServerError."""
        self.launch()
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(
                    f"the Prefect server ended with status {self._process.returncode} instead of starting"
                )
            try:
                # The kernel queues the connection until the server serves, so this waits without polling.
                with urllib.request.urlopen(f"{self.url}/health", timeout=START_SECONDS):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise ServerError(f"the Prefect server did not answer within {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> "subprocess.Popen[bytes]":
        # The listening socket is made here and handed over: no port can be lost to another process in between.
        with socket.socket() as listener:
            # Connections of a server that died may linger at its port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted connections inherit this. On an inherited socket uvicorn does not set it, and then every
            # answer's body waits 40 ms for the acknowledgement of its head.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                listener.bind(("127.0.0.1", self._port))
            except OSError as error:
                raise ServerError(f"the Prefect server's port {self._port} was taken after it died: {error}") from error
            listener.listen(128)
            self._port = listener.getsockname()[1]
            self.url = f"http://127.0.0.1:{self._port}/api"
            return subprocess.Popen(
                [sys.executable, "-m", "flows.prefect_server", str(os.getpid()), str(listener.fileno())],
                env=os.environ | _SERVER,
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


def end_threads_at_exit() -> None:
    """In a process that runs flows: end Prefect's event loops before the interpreter ends."""
    # Not before: Prefect sends its last logs in the exit hooks of threading, which come before atexit's.
    atexit.register(_end_threads)


def _end_threads() -> None:
    """End Prefect's event loops: threads that outlive the interpreter make DuckDB's bindings print leak warnings."""
    from prefect._internal.concurrency.threads import get_global_loop, get_run_sync_loop

    for loop in (get_run_sync_loop(), get_global_loop()):
        loop.shutdown()
        if loop.thread.is_alive():
            loop.thread.join(5)


def _serve(parent: int, descriptor: int) -> None:
    """The server's own process: serve on an inherited socket until the parent is gone."""
    import uvicorn

    config = uvicorn.Config(
        "flows.locked_database:create_app",
        factory=True,
        fd=descriptor,
        log_level="critical",
        lifespan="on",
        timeout_graceful_shutdown=3,
    )
    with uncollected():
        config.load()
    server = uvicorn.Server(config)

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        server.should_exit = True

    threading.Thread(target=follow_parent, daemon=True).start()
    server.run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
