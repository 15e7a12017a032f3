"""The Prefect API that a run talks to: the one that PREFECT_API_URL names, or a server of its own while it runs.

Prefect can start a temporary server itself, but that one shares our process group and terminal: Ctrl-C reached it
first and the run hung for over a minute, and SIGKILL of the run left it behind for ever (Prefect 3.8.8). This one is
out of Ctrl-C's reach, keeps its database where Prefect keeps it, and ends with the process that started it, however
that ends.
"""

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


class ServerError(Exception):
    """There is no Prefect API to talk to; the message says what to do."""


def quiet_prefect() -> None:
    """Keep Prefect off the terminal and off the network; what the user has set stands. Before Prefect is imported."""
    for name, value in _CLIENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_api() -> Iterator[None]:
    """Flows that are called in the block run against an API that answers. Raises ServerError when there is none."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    end_threads_at_exit()
    url = PREFECT_API_URL.value()
    # Heartbeats cost a second per flow run; they serve automations, which a server of our own does not run.
    settings: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    if url is None:
        # Nor does it ask for tokens against forged requests, which cost a request of their own per flow run.
        settings |= {PREFECT_API_URL: _start_server(), PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}
    else:
        check_api(url)
    with temporary_settings(settings):
        yield


def require_api() -> str:
    """The URL of the Prefect API that PREFECT_API_URL names. Raises ServerError when it names none, or none answers."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        raise ServerError("PREFECT_API_URL names no Prefect API: `srpo serve` starts one and prints its address")
    check_api(url)
    return str(url)


def check_api(url: str) -> None:
    """Raises ServerError when no Prefect API answers at `url`."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10):
            return
    except (urllib.error.URLError, ValueError, OSError) as error:
        raise ServerError(
            f"PREFECT_API_URL is {url}, and no Prefect API answers there ({error}): "
            "start it with `prefect server start`, or unset the variable to run without one"
        ) from error


def _start_server() -> str:
    """Start a server on a free port of the loopback and return its URL once it answers."""
    # The listening socket is made here and handed over: no port can be lost to another process in between.
    with socket.socket() as listener:
        # Accepted connections inherit this. On an inherited socket uvicorn does not set it, and then every answer's
        # body waits 40 ms for the acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server", str(os.getpid()), str(listener.fileno())],
            env=os.environ | _SERVER,
            pass_fds=(listener.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    atexit.register(_stop, server)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerError(f"the Prefect server ended with status {server.returncode} instead of starting")
        try:
            # The kernel queues the connection until the server serves, so this waits without polling.
            with urllib.request.urlopen(f"{url}/health", timeout=START_SECONDS):
                return url
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise ServerError(f"the Prefect server did not answer within {START_SECONDS:.0f} s")


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


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _serve(parent: int, descriptor: int) -> None:
    """The server's own process: serve on an inherited socket until the parent is gone."""
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        fd=descriptor,
        log_level="critical",
        lifespan="on",
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        server.should_exit = True

    threading.Thread(target=follow_parent, daemon=True).start()
    server.run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
