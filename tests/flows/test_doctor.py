"""`srpo doctor`: what it finds is true, and what is missing has a command that provides it."""

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def doctor(store: Path, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "doctor", "--json", "--store", str(store)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_a_machine_that_runs_these_tests_lacks_nothing_that_is_needed(tmp_path: Path) -> None:
    status, findings = doctor(tmp_path)
    assert status == 0
    assert platform.python_version() in findings["Python"]["detail"]
    assert torch.__version__ in findings["torch"]["detail"]
    assert "level" in findings["sandbox"]["detail"]
    assert "GB free" in findings["disk"]["detail"]
    assert set(findings) == {"Python", "packages", "torch", "sandbox", "Prefect API", "vLLM", "disk"}
    assert all(finding["found"] for finding in findings.values() if finding["needed"])


def test_a_prefect_api_that_does_not_answer_is_missing(tmp_path: Path) -> None:
    with socket.socket() as bound:  # bound, never listening: nothing can answer there
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/api"
        status, findings = doctor(tmp_path, PREFECT_API_URL=url)
    assert status == 1
    assert findings["Prefect API"]["found"] is False
    assert url in findings["Prefect API"]["detail"]
    assert findings["Prefect API"]["remedy"]


def test_a_store_in_which_nothing_can_be_published_is_missing() -> None:
    status, findings = doctor(Path("/proc/self"))
    assert status == 1
    assert findings["disk"]["found"] is False
    assert findings["disk"]["remedy"]


def test_without_bubblewrap_the_level_is_told_with_what_to_install(tmp_path: Path) -> None:
    status, findings = doctor(tmp_path, PATH=str(Path(sys.executable).parent))
    assert status == 0  # the default configuration executes no program
    assert findings["sandbox"]["detail"].startswith("level B")
    assert "bubblewrap" in findings["sandbox"]["remedy"]


def test_the_table_names_everything_that_was_looked_at(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "doctor", "--store", str(tmp_path)], capture_output=True, text=True, check=False
    )
    for name in ("Python", "packages", "torch", "sandbox", "Prefect API", "vLLM", "disk"):
        assert name in done.stdout


def test_with_a_bubblewrap_that_may_not_do_its_work_it_is_told_what_allows_it(tmp_path: Path) -> None:
    """As in a container that Docker denies user namespaces."""
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    _, findings = doctor(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert findings["sandbox"]["detail"].startswith("level B")
    assert "user namespaces" in findings["sandbox"]["remedy"]
