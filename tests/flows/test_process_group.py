"""What `srpo serve` starts ends with it, whatever ends it, and begins again when it is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from served_runs import eventually

from flows.stage_process import outliving

# Starts one more process, as a worker does, and writes both ids in one go.
COMMAND = """
import os, subprocess, sys
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
mine = Path(sys.argv[1]) / f"{os.getpid()}.tmp"
mine.write_text(f"{os.getpid()} {child.pid}")
mine.rename(mine.with_suffix(".pids"))
child.wait()
"""
# Asks for a group, with this process as the parent, and waits.
PARENT = """
import os, subprocess, sys
leader = [sys.executable, "-m", "flows.process_group", str(os.getpid())]
subprocess.run([*leader, *sys.argv[1:]], start_new_session=True)
"""


@contextmanager
def led(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A group, led by `flows.process_group`, whose command writes its process ids into `directory`."""
    command = [sys.executable, "-c", COMMAND, str(directory)]
    leader = [sys.executable, "-m", "flows.process_group", str(os.getpid()), *command]
    with subprocess.Popen(leader, start_new_session=True) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def begun(directory: Path, times: int) -> list[list[int]]:
    """The process ids of every start of the command, oldest first, once there are so many."""

    def look() -> list[list[int]] | None:
        files = sorted(directory.glob("*.pids"), key=lambda path: path.stat().st_mtime_ns)
        return [[int(pid) for pid in path.read_text().split()] for path in files] if len(files) == times else None

    return eventually(look)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_command_begins_again_beside_what_it_had_started(tmp_path: Path) -> None:
    with led(tmp_path) as leader:
        ((first, child),) = begun(tmp_path, 1)
        os.kill(first, signal.SIGKILL)
        _, (second, other) = begun(tmp_path, 2)
        assert is_alive(child)
        os.killpg(leader.pid, signal.SIGTERM)
        leader.wait(60)
    eventually(lambda: not any(map(is_alive, (child, second, other))))


def test_a_group_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", PARENT, *command]) as parent:
        ((first, child),) = begun(tmp_path, 1)
        parent.kill()
    eventually(lambda: not is_alive(first) and not is_alive(child))


def test_a_command_that_fails_at_once_is_not_tried_again(tmp_path: Path) -> None:
    leader = [sys.executable, "-m", "flows.process_group", str(os.getpid()), sys.executable, "-c", "exit(3)"]
    done = subprocess.run(leader, start_new_session=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ended with status 3\n"


def test_output_that_nobody_reads_any_more_is_lost_and_ends_nothing() -> None:
    read, write = os.pipe()
    output = outliving(write)
    print("heard", file=output)
    assert os.read(read, 100) == b"heard\n"
    os.close(read)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"not heard")
    print("not heard", file=output)
    os.close(write)
