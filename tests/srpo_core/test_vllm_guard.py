"""What a guard started is gone when the command, or whoever started the guard, is gone."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from srpo_core.rollout import vllm_guard

LONGEST_SECONDS = 60.0

# A command that starts a process as vLLM starts its engine: it stays when its parent goes, and a polite signal does not
# end it. Both hold the standard output; it ends for the reader when both are gone.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
reader, writer = os.pipe()
if os.fork() == 0:
    print("up", flush=True)
    os.write(writer, b".")
    time.sleep(600)
os.read(reader, 1)
time.sleep(600 if sys.argv[1] == "stays" else 0)
sys.exit(3)
"""
GUARD = [sys.executable, "-c", "import sys; exec(sys.argv.pop(1))"]
QUICK = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("guard", {vllm_guard.__file__!r})
guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guard)
guard.GRACE_SECONDS = 0.1
guard.main(int(sys.argv[1]), sys.argv[2:])
"""


def start(parent: int, mode: str) -> subprocess.Popen[str]:
    """A guard over the stubborn command, which is up."""
    command = [*GUARD, QUICK, str(parent), sys.executable, "-c", STUBBORN, mode]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert guard.stdout is not None
    assert guard.stdout.readline() == "up\n"
    return guard


def nothing_is_left(guard: subprocess.Popen[str]) -> bool:
    """Whether nobody holds the output any more; waits for that, a while."""
    assert guard.stdout is not None
    return bool(select.select([guard.stdout], [], [], LONGEST_SECONDS)[0]) and guard.stdout.read() == ""


def test_closing_the_guards_input_ends_the_command_and_what_it_started() -> None:
    guard = start(os.getpid(), "stays")
    assert guard.stdin is not None
    guard.stdin.close()
    assert nothing_is_left(guard)


def test_a_command_that_ends_takes_along_what_it_started() -> None:
    guard = start(os.getpid(), "ends")
    assert nothing_is_left(guard)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_guard_ends_the_command_and_what_it_started(number: signal.Signals) -> None:
    guard = start(os.getpid(), "stays")
    guard.send_signal(number)
    assert nothing_is_left(guard)


def test_a_killed_guard_takes_the_command_along() -> None:
    alone = "import time; print('up', flush=True); time.sleep(600)"
    command = [*GUARD, QUICK, str(os.getpid()), sys.executable, "-c", alone]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert guard.stdout is not None
    assert guard.stdout.readline() == "up\n"
    guard.kill()
    assert nothing_is_left(guard)


def test_a_killed_parent_takes_the_command_along_even_when_its_fork_holds_the_guards_input(tmp_path: Path) -> None:
    told = tmp_path / "fork"
    os.mkfifo(told)
    parent = f"""
import os, subprocess, sys, time
command = {GUARD!r} + [{QUICK!r}, str(os.getpid()), sys.executable, "-c", {STUBBORN!r}, "stays"]
subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
fork = os.fork()
if fork == 0:
    os.close(1)
    os.open(os.devnull, os.O_WRONLY)
    time.sleep(600)
open({str(told)!r}, "w").write(str(fork))
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    fork = int(told.read_text())
    process.kill()
    assert nothing_is_left(process)
    os.kill(fork, signal.SIGKILL)


def test_a_guard_that_does_not_lead_its_group_refuses_to_work() -> None:
    command = [sys.executable, vllm_guard.__file__, str(os.getpid()), "true"]
    refused = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "leader" in refused.stderr
