"""What can go wrong ends with a message and a status, never a traceback, and nothing that was committed is lost."""

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_process import HERE, TINY, Pipeline, UndisturbedRun
from test_resume import assert_same_run, run_killed

from flows.runs import open_run

FAILED, WRONG_USE = 1, 2


def assert_told(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr.startswith("srpo: ")
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr


def test_an_unknown_run_is_answered_with_the_runs_there_are(pipeline: Pipeline, undisturbed: UndisturbedRun) -> None:
    for command in ("resume", "status", "report", "eval"):
        assert_told(pipeline.srpo(command, "nope", "--store", undisturbed.store), WRONG_USE, "'nope'", "tiny")


def test_a_typo_in_the_settings_is_answered_with_its_path_and_what_is_allowed(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    settings = tmp_path / "typo.yaml"
    settings.write_text("rollout: {group_sise: 4}\n")
    told = pipeline.srpo("run", settings, "--store", tmp_path)
    assert_told(told, WRONG_USE, "rollout.group_sise", "group_size", "max_new_tokens")
    assert not (tmp_path / "typo").exists()


def test_contradictory_settings_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    told = pipeline.srpo("run", TINY, "--store", tmp_path, "--set", "rollout.max_staleness=3")
    assert_told(told, WRONG_USE, "keep_policies", "rollout.max_staleness")


def test_wrong_use_of_the_command_has_status_two(pipeline: Pipeline) -> None:
    assert pipeline.srpo("resume").returncode == WRONG_USE
    assert pipeline.srpo("nonsense").returncode == WRONG_USE


def test_more_problems_than_the_lab_has_are_refused_by_name(pipeline: Pipeline, tmp_path: Path) -> None:
    told = pipeline.srpo("run", TINY, "--store", tmp_path, "--set", "problems.heldout=5000")
    assert_told(told, FAILED, "problems", "5000")


def test_a_prefect_api_that_does_not_answer_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    nowhere = Pipeline(pipeline.environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert_told(nowhere.srpo("run", TINY, "--store", tmp_path), FAILED, "PREFECT_API_URL", "prefect server start")


def test_a_model_directory_without_a_model_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    told = pipeline.srpo("run", TINY, "--store", tmp_path, "--set", f"policy.model={tmp_path}")
    assert_told(told, FAILED, str(tmp_path), "config.json")


@pytest.fixture(scope="module")
def half_done(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run that was killed when it had committed a step that no update has learned from yet."""
    store = tmp_path_factory.mktemp("half-done")
    run_killed(pipeline, store, ("in the update", 2))
    return store


@pytest.fixture
def broken(half_done: Path, tmp_path: Path) -> Path:
    """A copy of the half-done store, to be broken."""
    return Path(shutil.copytree(half_done, tmp_path / "store"))


@pytest.mark.slow
def test_a_corrupt_shard_is_named_and_a_good_copy_put_back_lets_the_run_go_on(
    pipeline: Pipeline, undisturbed: UndisturbedRun, broken: Path
) -> None:
    shard = sorted((broken / "tiny" / "data").rglob("step=1/*.parquet"))[0]
    good = shard.read_bytes()
    middle = len(good) // 2
    shard.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    assert_told(pipeline.srpo("resume", "tiny", "--store", broken), FAILED, shard.name, "committed")
    shard.write_bytes(good)
    assert pipeline.srpo("resume", "tiny", "--store", broken).returncode == 0
    assert_same_run(open_run(broken, "tiny"), open_run(undisturbed.store, "tiny"))


def test_a_missing_policy_file_is_named(pipeline: Pipeline, broken: Path) -> None:
    newest = max((broken / "tiny" / "policies").iterdir())
    (newest / "model.safetensors").unlink()
    assert_told(pipeline.srpo("resume", "tiny", "--store", broken), FAILED, str(newest))


def test_damaged_weights_are_named_and_not_learned_from(pipeline: Pipeline, broken: Path) -> None:
    weights = max((broken / "tiny" / "policies").iterdir()) / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-100] ^= 1
    weights.write_bytes(damaged)
    assert_told(pipeline.srpo("resume", "tiny", "--store", broken), FAILED, str(weights), "not what was published")


def test_two_processes_do_not_work_on_one_run(pipeline: Pipeline, broken: Path) -> None:
    with open_run(broken, "tiny").locked():
        assert_told(pipeline.srpo("resume", "tiny", "--store", broken), FAILED, "another process")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB: room for the settings and the problems, not for the policies of a run."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", mount], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("a small disk needs the right to mount one: NOT TESTED that a full disk is survived")
    yield mount
    subprocess.run(["umount", mount], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    pipeline: Pipeline, undisturbed: UndisturbedRun, small_disk: Path
) -> None:
    assert_told(pipeline.srpo("run", TINY, "--store", small_disk), FAILED, "space")
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    resumed = pipeline.srpo("resume", "tiny", "--store", small_disk)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(open_run(small_disk, "tiny"), open_run(undisturbed.store, "tiny"))


def test_the_server_of_a_killed_run_ends_with_it(pipeline: Pipeline) -> None:
    alone = {name: value for name, value in pipeline.environment.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, str(HERE / "serve.py")]
    with subprocess.Popen(command, env=alone, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        run.stdout.readline()  # the URL: the server answers
        (server,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        ended = os.pidfd_open(int(server))
        run.send_signal(signal.SIGKILL)
        assert select.select([ended], [], [], 60)[0], "the server outlived the run"
        os.close(ended)
