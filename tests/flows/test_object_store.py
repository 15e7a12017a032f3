"""A whole run whose history is in an object store: killed, resumed, asked, reported."""

import json
import shutil
from pathlib import Path

import object_servers
import pytest
from object_servers import BUCKET
from pipeline_process import HERE, TINY, Pipeline, UndisturbedRun
from test_resume import assert_same_run

from flows.changes import begin_or_change
from flows.runs import WrongUseError, create_run, open_history, open_run
from srpo_core.config import Settings
from srpo_core.settings_file import load_settings
from storage.files import StoreError
from storage.history import RunHistory

URL = f"s3://{BUCKET}/runs"
KILLS = [("in the middle of a shard", 2), ("between shards and index", 2), ("between decisions and plan", 1)]


def settings(url: str, *more: str) -> Settings:
    return load_settings(TINY, [f"history.url={url}", *more])


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_resumed_and_ends_like_a_local_one(
    pipeline: Pipeline, undisturbed: UndisturbedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_servers.moto(tmp_path) as given:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        there = Pipeline(pipeline.environment | given)
        store = tmp_path / "store"
        start = ("run", TINY, "--store", store, "--set", f"history.url={URL}")
        going_on = ("resume", "tiny", "--store", store)
        killed = there.python(HERE / "killed_run.py", json.dumps(KILLS), *map(str, start), "--", *map(str, going_on))
        assert killed.returncode == 0, killed.stdout + killed.stderr
        assert there.srpo("status", "tiny", "--store", store).returncode == 0  # of an unfinished run
        resumed = there.srpo(*going_on)
        assert resumed.returncode == 0, resumed.stderr
        run = open_run(store, "tiny")
        assert not {"data", "index", "tables"} & {path.name for path in run.directory.iterdir()}
        assert not any((run.directory / "_tmp").iterdir())
        assert_same_run(run, open_run(undisturbed.store, "tiny"))
        status = there.srpo("status", "tiny", "--store", store, "--json")
        assert json.loads(status.stdout)["state"] == "finished"
        report = there.srpo("report", "tiny", "--store", store)
        assert Path(report.stdout.strip()).is_file(), report.stderr
        for target in ("tiny", URL, f"{URL}/tiny", run.directory):
            asked = there.srpo(
                "sql", target, "SELECT count(*) AS n FROM trajectories", "--store", store, "--format", "csv"
            )
            assert asked.returncode == 0, asked.stderr
            assert int(asked.stdout.split()[1]) > 0
        assert "secret" not in (run.directory / "settings.yaml").read_text()
        shutil.rmtree(store)
        with pytest.raises(WrongUseError, match=r"s3://\S+/tiny keeps the history of a run whose directory is not"):
            create_run(store, "tiny", settings(URL))


def test_the_settings_url_says_where_the_history_goes_and_all_of_it_is_found(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", "r1", settings(f"file://{tmp_path}/kept/"))
    assert run.history.store.root == f"{tmp_path}/kept/r1"
    names = sorted(path.name for path in run.directory.glob("[!s]*"))
    assert names == ["_tmp", "history.duckdb", "policies"]
    assert sorted(path.name for path in (tmp_path / "kept" / "r1").iterdir()) == ["_tmp", "data", "index", "tables"]
    for target in ("r1", str(run.directory), f"file://{tmp_path}/kept/r1"):
        assert open_history(run.store, target).root == run.history.store.root
    assert open_history(run.store, f"file://{tmp_path}/kept").root == f"{tmp_path}/kept"
    assert open_history(run.store, str(run.store)).root == str(run.store)
    with pytest.raises(WrongUseError, match="there is no run 'r2'"):
        open_history(run.store, "r2")
    with pytest.raises(StoreError, match="is no place"):
        open_history(run.store, "gs://bucket/x")


def test_a_run_that_began_elsewhere_is_not_begun_anew(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/kept"
    run = create_run(tmp_path / "runs", "r1", settings(url))
    assert create_run(tmp_path / "runs", "r1", settings(url)).history.store.root == run.history.store.root
    with pytest.raises(WrongUseError, match=r'began with other settings.*\n  history\.url: "file://'):
        begin_or_change(tmp_path / "runs", "r1", settings(f"{url}2"), "me", print)
    assert not (tmp_path / "kept2").exists()
    problem = {"prompt_id": "0" * 16, "domain": "math", "difficulty": 1, "question": "?", "answer": "1"}
    run.history.publish("prompts", [problem | {"source": "lab", "split": "train"}], stage=0, epoch=0)
    with pytest.raises(WrongUseError, match=r"kept/r1 keeps the history of a run whose directory is not"):
        create_run(tmp_path / "others", "r1", settings(url))
    assert not (tmp_path / "others").exists()


def test_a_store_that_is_refused_leaves_no_run_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served").mkdir()
    with object_servers.rclone(tmp_path / "served") as given:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match="accepted a second conditional write"):
            create_run(tmp_path / "runs", "r1", settings(URL))
    assert not (tmp_path / "runs" / "r1" / "settings.yaml").exists()
    changed = create_run(tmp_path / "runs", "r1", settings(f"file://{tmp_path}/kept"))
    assert isinstance(changed.history, RunHistory)


@pytest.mark.parametrize(
    "url", ["gs://bucket/x", "relative/path", "file://relative", "s3://", "s3://key:secret@bucket/x"]
)
def test_a_url_of_another_kind_is_refused_with_the_settings(url: str) -> None:
    with pytest.raises(Exception, match=r"history\.url"):
        settings(url)
