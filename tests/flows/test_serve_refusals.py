"""What `srpo serve` cannot do it says in one line, before anything is started."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from pipeline_process import HERE
from served_runs import free_port


def refused(directory: Path, *arguments: str | Path) -> str:
    """What `srpo serve` says when it refuses."""
    environment = os.environ | {"PREFECT_HOME": str(directory / "prefect")}
    command = [sys.executable, "-m", "flows", "serve", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr  # a message, no traceback
    return done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = refused(tmp_path, "--port", port, "--store", tmp_path / "runs")
    assert f"port {port}" in told
    assert "--port" in told
    assert not (tmp_path / "runs").exists()


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = refused(tmp_path, "--port", str(free_port()), "--store", tmp_path / "file" / "runs")
    assert str(tmp_path / "file" / "runs") in told


def test_a_file_that_is_no_prefect_yaml_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("seed: 1\n")
    told = refused(tmp_path, "--port", str(free_port()), "--store", tmp_path / "runs", "--prefect-file", other)
    assert str(other) in told
