"""Starting a vLLM server of one's own: what cannot be started is told with its reason, and nothing stays behind."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from vllm_environment import MARK, all_end, marked
from vllm_policies import tiny_model, write_version

from srpo_core.rollout.errors import EngineUnavailableError
from srpo_core.rollout.vllm_own import OwnVllmEngine
from srpo_core.rollout.vllm_process import (
    LOOPBACK,
    PYTHON_VARIABLE,
    VllmProcess,
    VllmStartError,
    served_version,
    vllm_python,
    vllm_versions,
)
from srpo_core.settings.engine import EngineSettings

HERE = EngineSettings(kind="vllm", python=sys.executable)  # a real Python, and one without vLLM


def test_a_server_that_ends_at_once_is_told_with_its_own_words_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "vllm.log"
    server = VllmProcess(tmp_path, HERE, dtype="float32", log=log)
    with pytest.raises(VllmStartError, match=r"ended instead of starting(.|\n)*No module named") as told:
        server.wait()
    assert str(log) in str(told.value)
    assert "--host 127.0.0.1" in log.read_text()
    assert not server.runs


def test_a_second_failure_is_told_without_the_first_ones_words(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text("RuntimeError: of an earlier start\n")
    with pytest.raises(VllmStartError) as told:
        VllmProcess(tmp_path, HERE, dtype="float32", log=log).wait()
    assert "earlier" not in str(told.value)
    assert log.read_text().startswith("RuntimeError: of an earlier start\n")


def test_a_server_that_is_killed_while_it_starts_may_be_started_again(tmp_path: Path) -> None:
    policy = write_version(tmp_path / "policies" / "version-1", tiny_model(1), 1)
    program, log = tmp_path / "python", tmp_path / "log"
    program.write_text("#!/bin/sh\nkill -KILL $$\n")
    program.chmod(0o755)
    settings = HERE.model_copy(update={"python": str(program)})
    engine = OwnVllmEngine(settings, dtype="float32", served=tmp_path / "served", log=log)
    for starts in (1, 2):
        with pytest.raises(EngineUnavailableError, match="killed while it started"):
            engine.load(policy)
        assert log.read_text().count("killed by signal 9\n") == starts
    engine.close()


@pytest.fixture
def slow(tmp_path: Path) -> EngineSettings:
    """A program that starts another, as vLLM does, and never answers; its name marks both."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nsleep 600 &\nexec sleep 600\n")
    program.chmod(0o755)
    return HERE.model_copy(update={"python": str(program), "environment": {MARK: str(tmp_path)}})


def test_a_server_that_takes_too_long_is_ended_and_the_setting_named(slow: EngineSettings, tmp_path: Path) -> None:
    hurried = slow.model_copy(update={"start_seconds": 1e-3})
    server = VllmProcess(tmp_path, hurried, dtype="float32", log=tmp_path / "log")
    with pytest.raises(VllmStartError, match=r"engine\.start_seconds"):
        server.wait()
    assert not server.runs
    assert all_end(marked(str(tmp_path)), 10)


def test_when_the_guard_is_killed_the_server_counts_as_lost_and_closing_ends_what_it_started(
    slow: EngineSettings, tmp_path: Path
) -> None:
    server = VllmProcess(tmp_path, slow, dtype="float32", log=tmp_path / "log")
    while len(processes := marked(str(tmp_path))) < 3:  # until the program runs, and what it starts
        pass
    os.kill(min(processes), signal.SIGKILL)
    assert all_end([min(processes)], 10)
    assert not server.runs
    server.close()
    assert all_end(processes, 10)


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    server = VllmProcess(tmp_path, HERE, dtype="float32", log=tmp_path / "log")
    server.close()
    server.close()
    assert not server.runs


def test_a_port_in_use_is_refused_by_the_settings_name(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        taken = HERE.model_copy(update={"port": other.getsockname()[1]})
        with pytest.raises(VllmStartError, match=r"engine\.port"):
            VllmProcess(tmp_path, taken, dtype="float32", log=tmp_path / "log")


def test_servers_that_are_started_at_the_same_time_have_ports_of_their_own(tmp_path: Path) -> None:
    servers = [VllmProcess(tmp_path, HERE, dtype="float32", log=tmp_path / "log") for _ in range(3)]
    assert len({server.url for server in servers}) == 3
    for server in servers:
        server.close()


def test_the_python_with_vllm_is_the_settings_then_the_environments_then_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "/bin/true")
    assert vllm_python(HERE) == sys.executable
    assert vllm_python(EngineSettings(kind="vllm")) == "/bin/true"
    monkeypatch.setenv(PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(VllmStartError, match=r"/nowhere/python.*make vllm.*engine\.python.*SRPO_VLLM_PYTHON"):
        vllm_python(EngineSettings(kind="vllm"))


def test_a_python_without_vllm_is_told_before_anything_is_started() -> None:
    with pytest.raises(VllmStartError, match=f"{sys.executable} has no vLLM"):
        vllm_versions(HERE)


def test_a_server_that_does_not_answer_has_no_version() -> None:
    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))
        assert served_version(f"http://{LOOPBACK}:{nobody.getsockname()[1]}").startswith("no answer")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"urls": ["http://one:8000"]}, "engine.kind vllm"),
        ({"kind": "vllm", "urls": ["http://one:8000"], "port": 8000}, "leave out either"),
        ({"kind": "vllm", "urls": ["one:8000"]}, "pattern"),
        ({"kind": "vllm", "arguments": ["--host", "0.0.0.0"]}, "never elsewhere"),
        ({"kind": "vllm", "arguments": ["--host=0.0.0.0"]}, "never elsewhere"),
        ({"kind": "vllm", "environment": {"VLLM_SERVER_DEV_MODE": "0"}}, "VLLM_SERVER_DEV_MODE"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EngineSettings.model_validate(values)


def test_settings_that_were_written_down_are_read_back_equal() -> None:
    settings = EngineSettings(kind="vllm", arguments=("--enforce-eager",), environment={"VLLM_CPU_KVCACHE_SPACE": "1"})
    assert EngineSettings.model_validate(settings.model_dump(mode="json")) == settings
