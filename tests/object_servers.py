"""Object stores on the loopback, each a process of its own: moto and SeaweedFS, which honour conditional writes, and
rclone, which does not; and a proxy in front of one that loses answers."""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BUCKET = "history"
Environment = dict[str, str]


def environment(endpoint: str) -> Environment:
    """What a process needs to reach the store at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "reader",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


@contextlib.contextmanager
def served(command: list[str], marker: str, directory: Path, variables: Environment | None = None) -> Iterator[str]:
    """A server that is ready once its output has a line with `marker`, which is given; it ends with the `with`."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which(command[0], path=beside)
    if program is None:
        pytest.skip(f"{command[0]} is not installed (it is in the dev dependencies): NOT TESTED")
    process = subprocess.Popen(
        [program, *command[1:]],
        cwd=directory,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if marker in line:
            break
    else:
        pytest.fail(f"{command[0]} ended before it was ready:\n{''.join(seen)}")
    drain = threading.Thread(target=process.stdout.read, daemon=True)  # a full pipe would stop it
    drain.start()
    try:
        yield line
    finally:
        process.terminate()
        process.wait(30)
        drain.join(30)


@contextlib.contextmanager
def moto(directory: Path) -> Iterator[Environment]:
    """Moto's imitation of S3. It believes any credentials."""
    with served(["moto_server", "-H", "127.0.0.1", "-p", "0"], "Running on", directory) as line:
        endpoint = line.split("Running on ")[1].strip()
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")).close()
        yield environment(endpoint)


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[Environment]:
    """SeaweedFS, a real object store. It knows one user."""
    ports = iter(free_ports(4))
    s3 = next(ports)
    given = environment(f"http://127.0.0.1:{s3}")
    options = {
        "dir": str(directory), "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "bucket": BUCKET, "s3.port": s3,
        "master.port": next(ports), "volume.port": next(ports), "filer.port": next(ports), "s3.port.iceberg": 0,
        "s3.port.lance": 0, "s3.autoCreateBucket": "false", "admin.ui": "false", "webdav": "false",
        "master.telemetry": "false",
    }  # fmt: skip
    command = ["weed", "mini", *(f"-{name}={value}" for name, value in options.items())]
    with served(command, "Press Ctrl+C", directory, {"HOME": str(directory), **given}):
        yield given


@contextlib.contextmanager
def rclone(directory: Path) -> Iterator[Environment]:
    """Rclone's S3 over a directory: it takes `If-None-Match` and overwrites. Unsigned, since it refuses signatures."""
    (directory / BUCKET).mkdir()
    command = ["rclone", "serve", "s3", "--addr", "127.0.0.1:0", str(directory)]
    with served(command, "http://127.0.0.1:", directory) as line:
        endpoint = "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split("/")[0]
        yield {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_SKIP_SIGNATURE": "true"}


SERVERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Environment]]] = {
    "moto": moto,
    "seaweed": seaweed,
}


class Proxy:
    """Stands before an object store, writes down every request, and does with it what a test says."""

    def __init__(self, upstream: str) -> None:
        self.requests: list[tuple[str, str]] = []
        self.lose: Callable[[str, str], str] = lambda _method, _path: ""
        host = upstream.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.requests.append((self.command, self.path))
                loss = proxy.lose(self.command, self.path)
                if loss != "request":
                    connection = http.client.HTTPConnection(host)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    content = answer.read()
                if loss:
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                if "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward  # noqa: N815 - the names that http.server looks for

            def log_message(self, format: str, *arguments: object) -> None:
                del format, arguments

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """A `Proxy` that serves as long as the `with` lasts."""
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, and whose gRPC twin (+ 10,000) is free too."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            one = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = one.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                held.enter_context(socket.create_server(("127.0.0.1", port + 10_000)))
                ports.append(port)
        return ports
