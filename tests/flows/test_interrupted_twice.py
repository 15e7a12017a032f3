"""The first Ctrl-C waits for the step under way, however long it takes; the second one does not."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pipeline_process import HERE, TINY, Pipeline

from flows import together
from flows.together import check_stop, run_together


@pytest.mark.slow
def test_a_second_interrupt_ends_a_run_whose_step_does_not_end(pipeline: Pipeline, tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "held_run.py"), "run", str(TINY), "--store", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=pipeline.environment, cwd=HERE, **pipes) as run:  # type: ignore[call-overload]
        assert any("Ctrl-C again ends at once" in line for line in run.stdout)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=300)
    assert run.returncode == 1
    assert told == "srpo: interrupted; what is committed stands, and `srpo resume` goes on from there\n"


def test_the_first_interrupt_waits_for_the_step_under_way_and_tells_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    waited, may_end = threading.Event(), threading.Event()
    ended: list[str] = []

    def announce(line: str) -> None:
        told.append(line)
        may_end.set()

    monkeypatch.setattr(together, "announce", announce)

    def stage() -> None:
        together.stage_begins()
        os.kill(os.getpid(), signal.SIGINT)
        waited.set()
        assert may_end.wait(60)
        ended.append("its step")
        check_stop()
        ended.append("another step")

    with pytest.raises(KeyboardInterrupt):
        run_together(stage)
    assert waited.is_set()
    assert ended == ["its step"]
    assert ["Ctrl-C again" in line for line in told] == [True]
