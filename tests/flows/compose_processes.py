"""The services of docker-compose.yml as processes of this machine, without containers.

Commands, environments, health checks and the order of starts are read from the file; hosts, ports and directories are
replaced by this machine's. PostgreSQL and Redis are Debian's, the object store is SeaweedFS's program. Where the kernel
lets us, each worker is on a machine of its own as far as it can tell: it has its own host name, and sees and signals no
process but its own.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from compose_file import FILE, ROOT, WITHOUT_GPU, services
from object_servers import free_ports
from served_runs import POLL_SECONDS, free_port

START_SECONDS = 300.0
_PORTS = ("postgres", "redis", "server", "s3")
_APART = ["unshare", "--user", "--map-root-user", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
_NAMED = ["sh", "-c", 'hostname "$1" && shift && exec "$@"', "sh"]
_OURS = {"prefect": [sys.executable, "-m", "prefect"], "srpo": [sys.executable, "-m", "flows"]}


def postgres_programs() -> Path | None:
    """The directory of the newest PostgreSQL's programs, as Debian installs them."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def missing_programs() -> list[str]:
    """What has to be installed for these processes."""
    programs = {"postgresql": postgres_programs(), "redis-server": shutil.which("redis-server")}
    programs |= {"wget": shutil.which("wget")}  # health checks use it
    return [name for name, found in programs.items() if not found]


@cache
def machines_are_apart() -> bool:
    """Whether workers can be kept from seeing one another, as machines or containers are."""
    return subprocess.run([*_APART, *_NAMED, "other", "true"], capture_output=True, check=False).returncode == 0


class Stack:
    """The processes while they run."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.services: dict[str, Any] = services(FILE, WITHOUT_GPU)
        self.ports = {name: free_port() for name in _PORTS}
        self.store = directory / "runs"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._directory, self._stack = directory, stack
        self._webserver: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The address that the browser would have."""
        return f"http://127.0.0.1:{self.ports['server']}"

    def start(self, name: str) -> None:
        """Start a service when those that it waits for are as its `depends_on` wants them."""
        if name in self.processes:
            return
        service = self.services[name]
        for other, wanted in (service.get("depends_on") or {}).items():
            self.start(other)
            if wanted["condition"] == "service_healthy":
                self.await_health(other)
            else:
                assert self.processes[other].wait(START_SECONDS) == 0, self.log(other)
        start = {"postgres": self._postgres, "redis": self._redis, "s3": self._s3}.get(name, self._ours)
        self.processes[name] = start(name)

    def power_off(self, name: str) -> None:
        """Kill a worker's machine and all that is on it; it boots again after a moment, and remembers nothing."""
        leader = self.processes[name].pid
        (machine,) = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
        os.kill(int(machine), signal.SIGKILL)

    def environment(self, name: str) -> dict[str, str]:
        """What a service's process finds in its environment: what the file says, and how to find Python."""
        home = self._directory / name
        home.mkdir(exist_ok=True)
        # As in the image, this environment's programs come first.
        kept = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        packages = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        here = {"HOME": str(home), "PYTHONPATH": packages, "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
        given = {key: self.translated(value) for key, value in (self.services[name].get("environment") or {}).items()}
        return kept | here | given | {"PREFECT_WORKER_WEBSERVER_PORT": str(self._webserver_port(name))}

    def translated(self, text: str) -> str:
        """A value of the file with this machine's addresses and directories."""
        whole = {"postgres": "127.0.0.1", "5432": str(self.ports["postgres"]), "0.0.0.0": "127.0.0.1"}
        whole |= {"/store": str(self.store), "4200": str(self.ports["server"])}
        parts = {"redis:6379": self._at("redis"), "server:4200": self._at("server"), "s3:8333": self._at("s3")}
        parts |= {"127.0.0.1:4200": self._at("server"), "127.0.0.1:8333": self._at("s3")}
        for old, new in parts.items():
            text = re.sub(rf"(?<=[/@]){re.escape(old)}", new, text)
        return whole.get(text, text).replace("/home/srpo", str(self._directory))

    def log(self, name: str) -> str:
        """What a service has said."""
        return f"{name}:\n{(self._directory / f'{name}.log').read_text(errors='replace')[-4000:]}"

    def _at(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def _webserver_port(self, name: str) -> int:
        return self._webserver.setdefault(name, free_port())

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(_process(command, environment, self._directory / f"{name}.log"))

    def _ours(self, name: str) -> subprocess.Popen[bytes]:
        first, *rest = self.services[name]["command"]
        command, environment = [*_OURS[first], *map(self.translated, rest)], self.environment(name)
        if name.startswith("worker-") and machines_are_apart():
            command = [*_APART, *_NAMED, name, *command]
        if self.services[name]["restart"] != "no":
            return self._start(name, command, environment)
        with (
            (self._directory / f"{name}.log").open("wb") as output,
            subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
        ):  # it ends by itself
            return process

    def _postgres(self, name: str) -> subprocess.Popen[bytes]:
        """What the image's entry does with these variables: a cluster, its user, its database."""
        given, port = self.environment(name), str(self.ports[name])
        programs = postgres_programs()
        assert programs is not None
        # PostgreSQL refuses root, and pytest's directories are closed to others.
        place = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="srpo-postgres-")))
        switch: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(place, "postgres", "postgres")
            switch = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data, password = place / "data", place / "password"
        password.write_text(given["POSTGRES_PASSWORD"])
        password.chmod(0o644)
        options = [f"--pgdata={data}", f"--username={given['POSTGRES_USER']}", f"--pwfile={password}"]
        initdb = [*switch, str(programs / "initdb"), *options, *shlex.split(given["POSTGRES_INITDB_ARGS"])]
        subprocess.run(initdb, env=given, cwd=place, check=True, capture_output=True)
        serve = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", port, "-k", str(place)]
        process = self._start(name, [*switch, *serve], given)
        access = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGPASSWORD": given["POSTGRES_PASSWORD"]}
        _until(lambda: _answers([str(programs / "pg_isready")], given | access), lambda: self.log(name))
        create = [str(programs / "createdb"), f"--username={given['POSTGRES_USER']}", given["POSTGRES_DB"]]
        subprocess.run(create, env=given | access, check=True, capture_output=True)
        return process

    def _redis(self, name: str) -> subprocess.Popen[bytes]:
        more = f"redis-server --port {self.ports[name]} --bind 127.0.0.1 --dir {self._directory} "
        command = [word.replace("redis-server ", more) for word in self.services[name]["command"]]
        return self._start(name, command, self.environment(name))

    def _s3(self, name: str) -> subprocess.Popen[bytes]:
        own, *others = free_ports(4)
        self.ports[name] = own
        data = self._directory / "objects"
        data.mkdir()
        ports = zip(("master", "volume", "filer"), others, strict=True)
        places = [f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={own}"]
        command = ["weed", *self.services[name]["command"], *places, *(f"-{kind}.port={port}" for kind, port in ports)]
        return self._start(name, command, self.environment(name))

    def await_health(self, name: str) -> None:
        """Return once a service's own health check holds, or the image's."""
        kind, *check = self.services[name].get("healthcheck", {}).get("test") or _check_of_the_image()
        environment = self.environment(name)
        if name == "postgres":
            environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports[name])}
        words = [self.translated(word).replace(":8080", f":{self._webserver_port(name)}") for word in check]
        if kind == "CMD-SHELL":
            words = ["sh", "-c", words[0].replace("redis-cli", f"redis-cli -p {self.ports['redis']}")]
        words[0] = {"python": sys.executable}.get(words[0], words[0])

        def healthy() -> bool:
            assert self.processes[name].poll() is None, self.log(name)
            return _answers(words, environment)

        _until(healthy, lambda: self.log(name))


def _check_of_the_image() -> list[str]:
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return ["CMD", *json.loads(found[1])]


@contextmanager
def composed(directory: Path) -> Iterator[Stack]:
    """A `Stack` whose processes end with the block, those that were started last first."""
    with ExitStack() as stack:
        yield Stack(directory, stack)


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, with whatever it starts; the group ends with the block, or with this process."""
    lead = [sys.executable, "-m", "flows.process_group", str(os.getpid())]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*lead, *command], env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(command: list[str], environment: dict[str, str]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False).returncode == 0
    return False


def _until(holds: Callable[[], bool], why: Callable[[], str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not ready in {START_SECONDS:.0f} s: {why()}")
        time.sleep(POLL_SECONDS)
