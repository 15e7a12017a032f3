"""A run whose updates are made by two processes: one of them is killed, and the run goes on as if it had not been."""

import json
import os
from pathlib import Path

import pytest
import torch
from pipeline_process import TINY, Pipeline
from safetensors.torch import load

from bench.chaos.checks import policies, tables
from flows.runs import open_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SHORT = ("update.parallel.processes=2", "stages.math.max_steps=2", "stages.math_and_code.max_steps=2")


def run_short(pipeline: Pipeline, store: Path) -> tuple[int, str]:
    changes = [word for change in SHORT for word in ("--set", change)]
    done = pipeline.srpo("run", TINY, "--store", store, *changes)
    return done.returncode, done.stderr


def test_the_death_of_a_process_in_the_middle_of_a_step_fails_the_run_clearly_and_it_can_be_resumed(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    moment = {"rank": 1, "call": 3, "file": str(tmp_path / "died"), "then": "die"}
    path = os.pathsep.join([str(ROOT / "tests" / "rank_moments"), str(ROOT)])
    dying = Pipeline(pipeline.environment | {"SRPO_TEST_MOMENT": json.dumps(moment), "PYTHONPATH": path})
    status, told = run_short(dying, tmp_path / "killed")
    assert status == 1
    assert told.startswith("srpo: ")
    assert "Traceback" not in told
    for words in ("rank 1 was killed by SIGKILL", "nothing of the step was published", "srpo resume"):
        assert words in told
    assert (tmp_path / "died").exists()
    resumed = pipeline.srpo("resume", "tiny", "--store", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    status, told = run_short(pipeline, tmp_path / "undisturbed")
    assert (status, told) == (0, "")
    killed, undisturbed = (open_run(tmp_path / name, "tiny") for name in ("killed", "undisturbed"))
    assert tables(killed) == tables(undisturbed)
    mine, theirs = policies(killed), policies(undisturbed)
    assert mine.keys() == theirs.keys()
    shares = {name for name in mine if "/optimizer/" in name}
    assert len(shares) >= 4
    for name in mine:
        if name in shares:  # their metadata is written in an order of each process's own
            one, other = load(mine[name]), load(theirs[name])
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), name
        else:
            assert mine[name] == theirs[name], name
