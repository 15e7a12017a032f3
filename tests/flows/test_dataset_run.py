"""Runs that train on data sets: what they train on and hold out, how they end, and that they need no file again."""

import json
from pathlib import Path

import pytest
import yaml
from pipeline_process import Pipeline
from vllm_policies import byte_pair_tokenizer, tiny_model

from flows.metrics import Stopwatch
from flows.plan import read_problems
from flows.prepare import plan_first_epoch, write_problems
from flows.problems import run_problems
from flows.runs import Run, RunError, create_run, open_run
from flows.sampler import Sampler
from flows.status import is_finished
from srpo_core.settings_file import load_settings

SUMS = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(1, 13)]
PROGRAMS = [
    {"text": f"Write a function to add {n}.", "test_list": [f"assert add_{n}(1) == {1 + n}"], "task_id": 600 + n}
    for n in range(1, 5)
]


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy that reads any text."""
    directory = tmp_path_factory.mktemp("bytes")
    tiny_model(3).save_pretrained(directory)
    byte_pair_tokenizer().save_pretrained(directory)
    return directory


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def settings_of(directory: Path, policy: Path | str, **problems: object) -> Path:
    """A settings file of a small run on the sums, and on the programs where `problems` names them."""
    sums = {"name": "gsm8k", "split": "train", "path": str(written(directory / "sums.jsonl", SUMS))}
    held = [{"question": "What is 50 + 50?", "answer": "#### 100"}, SUMS[0]]
    heldout = {"name": "gsm8k", "split": "test", "path": str(written(directory / "held.jsonl", held))}
    chosen = {"source": "datasets", "train": [sums], "heldout": [heldout], "template": "plain", **problems}
    settings = {
        "policy": {"model": str(policy)},
        "problems": chosen,
        "rollout": {"prompts_per_step": 8, "group_size": 2, "max_new_tokens": 8},
        "stages": {"math": {"max_steps": 2}, "math_and_code": {"max_steps": 1}},
        "evaluation": {"samples": 1, "every_epochs": 9},
        "verifiers": {"workers": 1},
    }
    (path := directory / "settings.yaml").write_text(yaml.safe_dump(settings))
    return path


def programs(directory: Path) -> dict[str, str]:
    return {"name": "mbpp", "split": "train", "path": str(written(directory / "programs.jsonl", PROGRAMS))}


def test_what_is_held_out_is_dropped_and_told_or_refused(tmp_path: Path) -> None:
    told: list[str] = []
    train, heldout = run_problems(load_settings(settings_of(tmp_path, "lab")), told.append)
    assert (len(train), len(heldout)) == (11, 2)
    assert "What is 1 + 1?" not in [problem.question for problem in train]
    assert len(told) == 1
    assert told[0].startswith("1 training problems are held out too")
    with pytest.raises(RunError, match=r"`problems\.overlap: drop` leaves them out"):
        run_problems(load_settings(settings_of(tmp_path, "lab", overlap="refuse")), told.append)


def test_a_problem_of_two_data_sets_counts_once_and_bad_rows_are_told(tmp_path: Path) -> None:
    file = written(tmp_path / "more.jsonl", [*SUMS[3:6], {"question": "And now?"}])
    more = {"name": "gsm8k", "split": "train", "path": str(file)}
    first = {**more, "path": str(written(tmp_path / "first.jsonl", SUMS[1:5]))}
    told: list[str] = []
    settings = load_settings(settings_of(tmp_path, "lab", train=[first, more]))
    assert len(run_problems(settings, told.append)[0]) == 5
    assert told == [
        f"{file}: 1 rows left out: no text in column answer",
        f"{file}: 2 problems left out: an earlier data set has them too",
    ]


def test_code_alone_is_refused_since_stage_one_is_math(tmp_path: Path) -> None:
    settings = load_settings(settings_of(tmp_path, "lab", train=[programs(tmp_path)]))
    with pytest.raises(RunError, match="stage 1 is math"):
        run_problems(settings, print)


def test_a_run_needs_no_data_set_once_its_problems_are_written(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", "r", load_settings(settings_of(tmp_path, "lab")))
    write_problems.fn(run)
    (tmp_path / "sums.jsonl").unlink()
    (tmp_path / "held.jsonl").unlink()
    write_problems.fn(run)
    plan_first_epoch.fn(run)
    assert len(read_problems(open_run(tmp_path / "runs", "r"), "train")) == 11


def test_math_and_programs_are_sampled_and_judged_by_their_verifiers(tmp_path: Path, policy: Path) -> None:
    settings = load_settings(settings_of(tmp_path, policy, train=[programs(tmp_path)], heldout=[programs(tmp_path)]))
    _, code = run_problems(load_settings(settings_of(tmp_path, policy, heldout=[programs(tmp_path)])), print)
    math, _ = run_problems(load_settings(settings_of(tmp_path, policy)), print)
    with Sampler(settings, tmp_path) as sampler:
        sampler.load(policy)
        graded = sampler.sample([*math[:3], *code[:2]], 2, lambda _, sample: sample, Stopwatch(), kind="generate")
    assert [grade.accuracy for _, grade in graded] == [0.0] * 10
    assert {grade.tests_passed for rollout, grade in graded if rollout.problem.domain == "math"} == {None}
    assert {rollout.problem.source for rollout, _ in graded} == {"gsm8k", "mbpp"}


def transitions(run: Run) -> list[tuple[int, str]]:
    rows = run.history.sql("SELECT stage, decision FROM transitions ORDER BY stage, epoch").to_pylist()
    return [(row["stage"], row["decision"]) for row in rows]


@pytest.mark.slow
def test_a_run_on_math_alone_ends_after_stage_one_and_one_with_code_after_stage_two(
    tmp_path: Path, policy: Path, pipeline: Pipeline
) -> None:
    for name in ("math", "both"):
        (directory := tmp_path / name).mkdir()
        settings = settings_of(directory, policy)
        if name == "both":
            sums = {"name": "gsm8k", "split": "train", "path": str(directory / "sums.jsonl")}
            settings = settings_of(directory, policy, train=[sums, programs(directory)])
        done = pipeline.srpo("run", settings, "--store", tmp_path / "runs", "--run-id", name)
        assert done.returncode == 0, done.stderr
        assert "│ math   │ 0     │" in done.stdout, "class 0 (unknown) has rows of its own"
    math, both = (open_run(tmp_path / "runs", name) for name in ("math", "both"))
    assert transitions(math)[-1] == (1, "finish")
    assert {stage for stage, _ in transitions(math)} == {1}
    assert transitions(both)[-1] == (2, "finish")
    assert is_finished(math)
    assert is_finished(both)
    judged = both.history.sql("SELECT DISTINCT domain FROM rollouts WHERE stage = 2 AND accuracy = 0").to_pylist()
    assert {row["domain"] for row in judged} == {"math", "code"}
    (tmp_path / "math" / "sums.jsonl").unlink()
    again = pipeline.srpo("resume", "math", "--store", tmp_path / "runs")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_run_on_gsm8k_and_mbpp_as_published(
    tmp_path: Path, policy: Path, pipeline: Pipeline, shared_data: Path
) -> None:
    folders = {name: str(shared_data / name) for name in ("gsm8k", "mbpp")}
    train = [{"name": name, "split": "train", "path": folder, "limit": 6} for name, folder in folders.items()]
    heldout = [{"name": name, "split": "test", "path": folder, "limit": 3} for name, folder in folders.items()]
    settings = settings_of(tmp_path, policy, train=train, heldout=heldout)
    done = pipeline.srpo("run", settings, "--store", tmp_path / "runs", "--run-id", "real")
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "runs", "real")
    assert is_finished(run)
    sources = run.history.sql("SELECT DISTINCT source FROM rollouts JOIN prompts USING (run, prompt_id)").to_pylist()
    assert {row["source"] for row in sources} == {"gsm8k", "mbpp"}
