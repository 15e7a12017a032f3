"""`srpo data`: the same input gives the same files, what is dropped is listed, and labelling goes on where it was."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.labels import difficulty_label, label_problems
from flows.runs import WrongUseError
from srpo_core.problems.datasets import load_dataset, parse_dataset
from srpo_core.problems.known import DATASETS
from srpo_core.problems.lab import base_policy_dir
from srpo_core.settings_file import default_settings

ROWS: list[dict[str, Any]] = [
    {"question": "What is 2 + 2?", "answer": "4", "domain": "math"},
    {"question": "what is 2+2", "answer": "4.0", "domain": "math"},
    {"question": "What is 3 + 3?", "answer": "6", "domain": "math"},
    {"question": "See https://example.org", "answer": "6", "domain": "math"},
    {"question": "What is 4 + 4?", "domain": "math"},
    {"question": "What is 5 + 5?", "answer": "10", "domain": "math", "difficulty": "hard"},
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def data(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_list_names_every_known_data_set() -> None:
    status, told = data("list")
    assert status == 0
    assert [line.split()[0] for line in told.splitlines()] == list(DATASETS)


def test_curation_keeps_lists_and_counts_and_the_same_input_gives_the_same_files(tmp_path: Path) -> None:
    mine = written(tmp_path / "mine.jsonl", ROWS)
    exam = written(tmp_path / "exam.jsonl", ROWS[2:3])
    for name in ("one", "two"):
        status, told = data("curate", mine, "--against", exam, "--out", tmp_path / f"{name}.jsonl")
        assert status == 0, told
    assert [row["question"] for row in rows_of(tmp_path / "one.jsonl")] == ["What is 2 + 2?", "What is 5 + 5?"]
    dropped = rows_of(tmp_path / "one.dropped.jsonl")
    assert [(row["reason"], row.get("row")) for row in dropped] == [
        ("unusable row", 5),
        ("duplicate", None),
        ("held out", None),
        ("url", None),
    ]
    assert "1 dropped: held out" in told
    for suffix in (".jsonl", ".dropped.jsonl"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert not list(tmp_path.glob(".srpo-*"))


def test_curated_problems_come_back_the_same_from_either_kind_of_file(tmp_path: Path) -> None:
    mine = written(tmp_path / "mine.jsonl", ROWS)
    for suffix in ("jsonl", "parquet"):
        assert data("curate", mine, "--out", tmp_path / f"out.{suffix}")[0] == (0 if suffix == "jsonl" else 2)
    (tmp_path / "out.dropped.jsonl").unlink()
    assert data("curate", mine, "--out", tmp_path / "out.parquet")[0] == 0
    lines, table = (load_dataset(parse_dataset(str(tmp_path / f"out.{each}"))) for each in ("jsonl", "parquet"))
    assert lines.examples == table.examples
    assert [problem.difficulty for problem in lines.problems] == [0, 0, 3]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gsm9k", "--out", "OUT/x.jsonl"], "did you mean gsm8k?"),
        (["gsm8k", "--out", "OUT/x.jsonl"], "must be one of train, test"),
        (["OUT/mine.jsonl", "--out", "OUT/x.csv"], "must end in .jsonl or .parquet"),
        (["OUT/mine.jsonl", "--out", "OUT/mine.jsonl"], "is there already"),
        (["OUT/mine.jsonl", "--out", "OUT/gone/x.jsonl"], "is no folder"),
        (["OUT/mine.jsonl", "--out", "OUT/x.jsonl", "--column", "question"], "write it as OURS=THEIRS"),
        (["OUT/gone.jsonl", "--out", "OUT/x.jsonl"], "cannot be read"),
    ],
)
def test_a_mistake_is_answered_with_a_message(tmp_path: Path, arguments: list[str], told: str) -> None:
    written(tmp_path / "mine.jsonl", ROWS)
    status, output = data("curate", *(argument.replace("OUT", str(tmp_path)) for argument in arguments))
    assert status in (1, 2)
    assert told in output
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize(
    ("correct", "graded", "label"),
    [(0, 8, "hard"), (1, 8, "medium"), (5, 8, "medium"), (6, 8, "easy"), (8, 8, "easy"), (0, 0, "unknown")],
)
def test_a_label_follows_from_what_was_solved(correct: int, graded: int, label: str) -> None:
    assert difficulty_label(correct, graded) == label


class StoppedError(Exception):
    """The labelling was interrupted."""


def test_an_interrupted_labelling_goes_on_and_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    loaded = load_dataset(parse_dataset(str(written(tmp_path / "mine.jsonl", [*ROWS[:1], ROWS[2], ROWS[5]]))))
    settings = default_settings(["rollout.groups_per_shard=1", "rollout.max_new_tokens=8", "problems.template=plain"])

    def label(name: str, tell: Any, samples: int = 2) -> dict[str, int]:
        return label_problems(loaded, tmp_path / name, base_policy_dir(), settings, samples, tell)

    def stop_after_two(line: str) -> None:
        if line.startswith("2 of 3"):
            raise StoppedError

    undisturbed: list[str] = []
    assert sum(label("whole.jsonl", undisturbed.append).values()) == 3
    with pytest.raises(StoppedError):
        label("cut.jsonl", stop_after_two)
    assert not (tmp_path / "cut.jsonl").exists()
    with (tmp_path / "cut.jsonl.partial").open("a") as journal:
        journal.write('{"problem": "torn')
    with pytest.raises(WrongUseError, match=r"another labelling \(samples differ\)"):
        label("cut.jsonl", print, samples=3)
    told: list[str] = []
    label("cut.jsonl", told.append)
    assert told == undisturbed[2:]
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "cut.jsonl.partial").exists()
    labelled = load_dataset(parse_dataset(str(tmp_path / "cut.jsonl")))
    assert {problem.difficulty for problem in labelled.problems} <= {1, 2, 3}
    assert {row["graded"] for row in rows_of(tmp_path / "cut.jsonl")} == {2}
