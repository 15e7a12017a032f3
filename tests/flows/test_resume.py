"""A run that is killed at any moment and resumed ends like one that was not."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pipeline_process import HERE, TINY, Pipeline, UndisturbedRun

from bench.chaos.checks import policies, tables
from flows.runs import Run, open_run

# In the order in which a run comes by them; the number says how often the moment comes before the kill.
KILLS = [
    ("in the middle of a shard", 2),
    ("between shards and index", 2),
    ("in the update", 1),
    ("before the checkpoint is published", 1),
    ("between the checkpoint's two phases", 1),
    ("in resampling", 1),
    ("between decisions and plan", 1),
    ("in an evaluation", 1),
    ("while pruning", 1),
    ("at the transition", 1),
    ("before the last pruning", 1),
]


def assert_same_run(one: Run, other: Run) -> None:
    mine, theirs = tables(one), tables(other)
    for name in mine:
        assert mine[name] == theirs[name], f"table {name} differs"
    assert policies(one) == policies(other)


def nameless(run: Run, *without: str) -> dict[str, Any]:
    """Every table of a run but those, and its policies, as runs of other names have them."""
    own = {"run", "file"}
    rows = {
        name: [{k: v for k, v in row.items() if k not in own} for row in rows] for name, rows in tables(run).items()
    }
    return {name: table for name, table in rows.items() if name not in without} | {"policies": policies(run)}


def run_killed(pipeline: Pipeline, store: Path, *kills: tuple[str, int], first: Sequence[str | Path] = ()) -> None:
    """Start a run in `store` and kill it, go on and kill it again, once for each of `kills`."""
    start = first or ("run", TINY, "--store", store)
    following = ("resume", "tiny", "--store", store)
    done = pipeline.python(HERE / "killed_run.py", json.dumps(kills), *start, "--", *following)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_killed_at_every_kind_of_moment_ends_like_an_undisturbed_one(
    pipeline: Pipeline, undisturbed: UndisturbedRun, tmp_path: Path
) -> None:
    run_killed(pipeline, tmp_path, *KILLS)
    resumed = pipeline.srpo("resume", "tiny", "--store", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(open_run(tmp_path, "tiny"), open_run(undisturbed.store, "tiny"))


@pytest.mark.slow
def test_a_killed_and_moved_run_goes_on_and_its_temporaries_are_swept(
    pipeline: Pipeline, undisturbed: UndisturbedRun, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run_killed(pipeline, first, ("in the middle of a shard", 4))
    assert list((first / "tiny" / "_tmp").iterdir())
    assert pipeline.srpo("report", "tiny", "--store", first).returncode == 0
    unfinished = (first / "tiny" / "report.html").read_text()
    shutil.move(first, second)
    resumed = pipeline.srpo("resume", "tiny", "--store", second)
    assert resumed.returncode == 0, resumed.stderr
    assert not list((second / "tiny" / "_tmp").iterdir())
    assert (second / "tiny" / "report.html").read_text() != unfinished
    assert_same_run(open_run(second, "tiny"), open_run(undisturbed.store, "tiny"))


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    pipeline: Pipeline, undisturbed: UndisturbedRun, tmp_path: Path
) -> None:
    command = ["run", TINY, "--store", tmp_path]
    for number in (signal.SIGINT, signal.SIGTERM):
        interrupted = pipeline.python(HERE / "interrupted_run.py", str(int(number)), *command)
        assert interrupted.returncode == 1
        assert (
            interrupted.stderr == "srpo: interrupted; what is committed stands, and `srpo resume` goes on from there\n"
        )
        command = ["resume", "tiny", "--store", tmp_path]
    resumed = pipeline.srpo(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(open_run(tmp_path, "tiny"), open_run(undisturbed.store, "tiny"))
