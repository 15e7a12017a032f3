import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import object_servers
import pytest
from history_samples import fill
from object_servers import BUCKET, Environment

from storage.history import RunHistory
from storage.stores import open_store

PLACES = itertools.count()
Made = Callable[..., RunHistory]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty run, made once: making one takes a tenth of a second, copying it a hundredth."""
    history = RunHistory(tmp_path_factory.mktemp("made") / "r1", "r1")
    history.create()
    return history.directory


@pytest.fixture
def history(tmp_path: Path, made: Path) -> RunHistory:
    """An empty history of a test's own. Its history.duckdb still looks at the original: `create` mends that."""
    return RunHistory(shutil.copytree(made, tmp_path / "store" / "r1"), "r1")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    """One history for all tests that only read it."""
    history = RunHistory(tmp_path_factory.mktemp("filled") / "store" / "r1", "r1")
    history.create()
    fill(history)
    return history


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Environment]]:
    """Object stores by name, each started when it is first asked for."""
    with contextlib.ExitStack() as running:
        started: dict[str, Environment] = {}

        def server(name: str) -> Environment:
            if name not in started:
                serve = object_servers.SERVERS[name]
                started[name] = running.enter_context(serve(tmp_path_factory.mktemp(name)))
            return started[name]

        yield server


@pytest.fixture
def in_bucket(tmp_path: Path) -> Made:
    """Makes a history below a URL of its own (`created` or only named), at the store that the environment names."""

    def make(run: str = "r1", *, root: str = "", created: bool = True) -> RunHistory:
        root = root or f"s3://{BUCKET}/place-{next(PLACES)}"
        directory = tmp_path / root.rpartition("/")[2] / run
        history = RunHistory(directory, run, open_store(f"{root}/{run}", directory / "_tmp"))
        if created:
            history.create()
        return history

    return make


def use(server: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process reach an object store, and only that one."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["moto", "seaweed"])
def honest(
    request: pytest.FixtureRequest, servers: Callable[[str], Environment], monkeypatch: pytest.MonkeyPatch
) -> Environment:
    """An object store that honours conditional writes, reached by the environment."""
    use(servers(request.param), monkeypatch)
    return servers(request.param)


@pytest.fixture
def proxy(servers: Callable[[str], Environment], monkeypatch: pytest.MonkeyPatch) -> Iterator[object_servers.Proxy]:
    """A proxy before moto, reached by the environment."""
    given = servers("moto")
    with object_servers.proxied(given["AWS_ENDPOINT_URL"]) as proxy:
        use(given | {"AWS_ENDPOINT_URL": proxy.endpoint}, monkeypatch)
        yield proxy
