"""A run leaves nowhere what a process was trusted with, and goes on a server that wants authentication."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pipeline_process import HERE, Pipeline

# Planted in the environment; each is looked for as it is and as HTTP sends it.
SECRETS = {
    "PREFECT_API_AUTH_STRING": "srpo:planted-of-prefect",
    "AWS_SECRET_ACCESS_KEY": "planted-of-the-bucket",
    "HF_TOKEN": "hf_plantedofthehub",
}


def found_secrets(*places: Path) -> list[str]:
    """Which planted secrets are in which files of these places."""
    spelt = {}
    for name, value in SECRETS.items():
        spelt |= {value.encode(): name, base64.b64encode(value.encode()): name}
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert files
    return [f"{name} in {path}" for path in files for text, name in spelt.items() if text in path.read_bytes()]


@dataclass(frozen=True)
class Protected:
    """A Prefect server that wants authentication, its home, and the command with an environment that has it."""

    home: Path
    pipeline: Pipeline

    def without(self, *names: str, **others: str) -> Pipeline:
        kept = {name: value for name, value in self.pipeline.environment.items() if name not in names}
        return Pipeline(kept | others)


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    home = tmp_path_factory.mktemp("protected")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = bare | SECRETS | {"PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    own = environment | {"PREFECT_SERVER_API_AUTH_STRING": SECRETS["PREFECT_API_AUTH_STRING"]}
    command = [sys.executable, str(HERE / "serve.py")]
    with subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        yield Protected(home, Pipeline(environment | {"PREFECT_API_URL": url}))
        server.communicate()


@pytest.mark.parametrize("said", [{}, {"PREFECT_API_AUTH_STRING": "srpo:wrong"}])
def test_a_protected_server_refuses_who_does_not_know_its_password_with_a_message(
    protected: Protected, tmp_path: Path, said: dict[str, str]
) -> None:
    told = protected.without("PREFECT_API_AUTH_STRING", **said).srpo("run", HERE / "brief.yaml", "--store", tmp_path)
    assert told.returncode == 1
    assert "refuses us" in told.stderr
    assert "set PREFECT_API_AUTH_STRING" in told.stderr
    assert "Traceback" not in told.stderr
    assert "planted" not in told.stdout + told.stderr


@pytest.mark.slow
def test_a_run_on_a_protected_server_ends_and_leaves_no_secret_anywhere(protected: Protected, tmp_path: Path) -> None:
    store, settings = tmp_path / "runs", HERE / "brief.yaml"
    done = protected.pipeline.srpo("run", settings, "--store", store)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    failed = protected.pipeline.srpo("run", settings, "--store", store, "--run-id", "f", "--set", "policy.model=/none")
    assert failed.returncode == 1
    output = done.stdout + failed.stdout + failed.stderr
    assert not [name for name, value in SECRETS.items() if value in output]
    assert any(path.name.startswith("prefect.db") for path in protected.home.rglob("*"))
    assert found_secrets(store, protected.home) == []
    # What is looked for can be found.
    (store / "planted").write_text(f"a line with {SECRETS['HF_TOKEN']}\n")
    assert found_secrets(store) == [f"HF_TOKEN in {store / 'planted'}"]
