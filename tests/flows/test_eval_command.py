"""`srpo eval`: measures without training, keeps what it found, and goes on where it was interrupted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pipeline_process import HERE, Pipeline, UndisturbedRun
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.evaluate_suites import evaluate_suite, missing_suites
from flows.evaluations import (
    Evaluation,
    Subject,
    begin_evaluation,
    evaluation_name,
    find_subject,
    load_suites,
    read_results,
)
from flows.progress import Progress
from flows.runs import WrongUseError
from flows.sampler import Sampler
from srpo_core.problems.lab import base_policy_dir
from srpo_core.settings_file import SettingsError
from storage.history import RunHistory

FEW = ["evaluation.samples=2"]


def asked(pipeline: Pipeline, *arguments: str | Path) -> tuple[dict[str, Any], str]:
    """What the command prints as JSON, and the lines before it."""
    done = pipeline.srpo(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    lines, brace, rest = done.stdout.partition("{\n")
    return json.loads(brace + rest), lines


def test_the_command_prints_what_the_rollouts_in_the_history_say_and_samples_once(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    command = ("eval", "lab", "--limit", "24", "--samples", "2", "--store", tmp_path)
    told, _ = asked(pipeline, *command)
    [suite] = told["suites"]
    overall = suite["rows"][0]
    assert (suite["suite"], overall["n"], overall["samples"]) == ("lab", 24, 2)
    history = RunHistory(tmp_path / told["evaluation"], told["evaluation"])
    rows = history.sql("FROM evaluation_rollouts").to_pylist()
    assert len(rows) == 48
    assert {row["suite"] for row in rows} == {"lab"}
    assert overall["pass_at_1"] == pytest.approx(sum(row["accuracy"] == 1 for row in rows) / 48)
    solved = {row["prompt_id"] for row in rows if row["accuracy"] == 1}
    assert overall["pass_at"] == {"2": pytest.approx(len(solved) / 24)}
    assert overall["mean_tokens"] == pytest.approx(sum(row["completion_tokens"] for row in rows) / 48)
    assert sum(row["n"] for row in suite["rows"] if row["difficulty"] is not None) == 24
    again, lines = asked(pipeline, *command)
    assert again == told
    assert "evaluated before" in lines
    assert "of 24 problems" not in lines


def test_the_ui_shows_how_far_an_evaluation_has_come(pipeline: Pipeline, tmp_path: Path) -> None:
    command = (HERE / "hurried_run.py", "eval", "lab", "--limit", "4", "--samples", "2", "--store", tmp_path, "--json")
    done = pipeline.python(*command)
    assert done.returncode == 0, done.stderr
    name = json.loads("{" + done.stdout.partition("{")[2])["evaluation"]
    url = pipeline.environment["PREFECT_API_URL"]
    wanted = ArtifactFilter.model_validate({"key": {"any_": [f"{name}-evaluate-progress"]}})
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(artifact_filter=wanted)
    assert (artifact.data, artifact.description[:21]) == (100, "lab: 8 of 8 samples, ")


def evaluated(store: Path, subject: Subject, limit: int, suites: tuple[str, ...] = ()) -> Evaluation:
    """What the flow does, without Prefect around it."""
    problems = load_suites(suites, subject, limit)
    evaluation = begin_evaluation(store, subject, limit)
    with Sampler(subject.settings, store) as sampler:
        sampler.load(subject.directory(store))
        for suite in missing_suites(evaluation, problems):
            progress = Progress(evaluation.name, "evaluate", total=len(problems[suite]), unit="samples")
            evaluate_suite.fn(evaluation, subject, sampler, progress, suite, problems[suite])
    return evaluation


def test_an_interrupted_evaluation_keeps_its_shards_and_ends_as_if_undisturbed(tmp_path: Path) -> None:
    subject = find_subject(tmp_path, "lab", None, ["evaluation.samples=128"])  # two problems a shard
    evaluation = evaluated(tmp_path, subject, 4)
    whole = read_results(evaluation)
    history = evaluation.history
    shards = sorted((history.directory / "tables" / "evaluation_rollouts").rglob("lab.*.parquet"))
    assert len(shards) == 2
    first = shards[0].read_bytes(), shards[0].stat().st_mtime_ns
    shards[1].unlink()  # as a kill in the second shard leaves it
    next((history.directory / "tables" / "evaluations").rglob("lab.parquet")).unlink()
    assert read_results(evaluated(tmp_path, subject, 4)) == whole
    assert (shards[0].read_bytes(), shards[0].stat().st_mtime_ns) == first


def test_another_setting_or_limit_is_another_evaluation_and_workers_are_not(tmp_path: Path) -> None:
    def name(limit: int | None, *changes: str) -> str:
        return evaluation_name(find_subject(tmp_path, "lab", None, changes), limit)[0]

    same = name(None)
    assert name(None, "verifiers.workers=3") == same
    others = {name(5), name(None, "rollout.temperature=0.5"), name(None, "evaluation.samples=9"), name(None, "seed=3")}
    assert len(others | {same}) == 5


def test_a_version_of_a_run_is_measured_on_what_the_run_held_out(undisturbed: UndisturbedRun, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.store, tmp_path / "store")
    subject = find_subject(tmp_path / "store", "tiny@0", None, [])
    [suite] = read_results(evaluated(tmp_path / "store", subject, 1000))
    kept = RunHistory(tmp_path / "store" / "tiny", "tiny").read("evaluations", stage=0, epoch=0).to_pylist()
    [base] = [row for row in kept if row["domain"] is None and row["difficulty"] is None]
    compared = ("n", "samples", "pass_at_1", "low", "high", "pass_at_k", "mean_tokens", "truncated", "ungraded")
    assert {name: suite["rows"][0][name] for name in compared} == {name: base[name] for name in compared}
    with pytest.raises(WrongUseError, match="keeps no policy version 1"):
        find_subject(tmp_path / "store", "tiny@1", None, [])
    with pytest.raises(WrongUseError, match="a version is a number"):
        find_subject(tmp_path / "store", "tiny@new", None, [])


def test_a_file_of_problems_is_a_suite_and_another_file_of_its_name_is_refused(tmp_path: Path) -> None:
    file, subject = tmp_path / "mine.jsonl", find_subject(tmp_path, "lab", None, FEW)
    file.write_text(json.dumps({"question": "What is 1 + 1?", "answer": "2", "domain": "math"}) + "\n")
    [suite] = read_results(evaluated(tmp_path, subject, 9, (str(file),)))
    assert (suite["suite"], suite["rows"][0]["n"]) == ("mine", 1)
    file.write_text(json.dumps({"question": "What is 2 + 2?", "answer": "4", "domain": "math"}) + "\n")
    with pytest.raises(WrongUseError, match="other problems"):
        evaluated(tmp_path, subject, 9, (str(file),))


def test_the_same_weights_in_another_directory_are_the_same_evaluation(tmp_path: Path) -> None:
    names = set()
    for place in ("one", "two"):
        shutil.copytree(base_policy_dir(), tmp_path / place / "policy")
        subject = find_subject(tmp_path, str(tmp_path / place / "policy"), None, FEW)
        names.add(subject.facts["weights"])
    assert len(names) == 1


@pytest.mark.parametrize(
    ("model", "suites", "changes", "words"),
    [
        ("no-such-model", (), (), "Hugging Face id"),
        ("lab", ("maths500",), (), "math500"),
        ("lab", ("heldout",), (), "only a run has held-out problems"),
        ("lab", ("lab", "lab"), (), "two suites"),
        ("lab", (), ("rollout.temprature=1",), "temperature"),
        (str(base_policy_dir()), (), (), "--suite"),
    ],
)
def test_what_cannot_be_measured_is_told(
    tmp_path: Path, model: str, suites: tuple[str, ...], changes: tuple[str, ...], words: str
) -> None:
    with pytest.raises((WrongUseError, SettingsError), match=words):
        load_suites(suites, find_subject(tmp_path, model, None, changes), None)
