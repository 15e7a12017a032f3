"""Problems from data sets: by name, from a local folder or the Hugging Face hub, or from files of the user's own.

A file of one's own has a problem in each row, in columns that may be mapped: `question`, `domain` (math or code),
`answer`, and if wanted `difficulty` and `source`. Code has its tests in `answer`, as JSON, or in the columns that
`CodeTests` has fields for: `asserts`, `check` and `entry_point`, or `inputs` and `outputs`; and `setup`.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from srpo_core.problems.examples import (
    BadRowError,
    Example,
    Row,
    answer_text,
    difficulty_of,
    read_code_columns,
    text_of,
)
from srpo_core.problems.known import DATASETS, DataSet
from srpo_core.problems.lab.world import SOURCE as LAB
from srpo_core.problems.problem import Problem
from srpo_core.problems.rows import SUFFIXES, DataError, file_rows, hub_rows
from srpo_core.rewards.code import CodeTests
from srpo_core.seeds import derive_seed
from srpo_core.settings.problems import DatasetSettings

FOLDER_VARIABLE = "SRPO_DATA"


@dataclass(frozen=True)
class Refused:
    """A row that gave no problem: its place in what was read, counted from 1, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What a data set gave. `origin` says where it was read, for people."""

    origin: str
    examples: list[Example]
    refused: list[Refused]

    @property
    def problems(self) -> list[Problem]:
        """The problems alone."""
        return [example.problem for example in self.examples]

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were refused, by reason, the commonest first."""
        return dict(Counter(refused.reason for refused in self.refused).most_common())


def parse_dataset(text: str) -> DatasetSettings:
    """A data set as a command names it: `gsm8k:test`, `math500`, or a file. Raises pydantic's ValidationError."""
    name, colon, split = text.partition(":")
    if name in DATASETS:
        return DatasetSettings(name=name, split=split if colon else None)
    return DatasetSettings(path=text) if Path(text).suffix in SUFFIXES else DatasetSettings(name=name)


def load_dataset(wanted: DatasetSettings, *, seed: int = 0) -> Loaded:
    """The problems of a data set, each content once, in the order of its rows.

    With a limit they are drawn by `seed` and content alone: a larger limit only adds to a smaller one's. Rows that give
    no problem are told in `refused`. Raises DataError for what cannot be read and for a data set without any problem.
    """
    if wanted.name is not None:
        dataset = DATASETS[wanted.name]
        origin, rows = _find(dataset, wanted)
        loaded = _read(origin, rows, lambda row: _named_example(dataset, row))
    else:
        assert wanted.path is not None
        path = Path(wanted.path)
        loaded = _read(str(path), enumerate(file_rows(path), 1), lambda row: _own_example(row, wanted, path.stem))
    if not loaded.examples:
        why = "; ".join(f"{reason}: {count} rows" for reason, count in loaded.reasons.items())
        raise DataError(f"{loaded.origin} has no problem that can be used{f' ({why})' if why else ''}")
    return Loaded(loaded.origin, _chosen(loaded, wanted, seed), loaded.refused)


def _read(origin: str, rows: Iterable[tuple[int, Row | None]], example_of: Callable[[Row], Example]) -> Loaded:
    examples: dict[str, Example] = {}
    refused = []
    for number, row in rows:
        try:
            if row is None:
                raise BadRowError("no JSON object")
            example = example_of(row)
            _refuse_half_characters(example.problem)
            if example.problem.id in examples:
                raise BadRowError("the same problem as an earlier row")
            examples[example.problem.id] = example
        except BadRowError as error:
            refused.append(Refused(number, str(error)))
    return Loaded(origin, list(examples.values()), refused)


def _refuse_half_characters(problem: Problem) -> None:
    """JSON may hold halves of characters, which no file and no table can."""
    try:
        (problem.question + problem.answer + problem.source).encode()
    except UnicodeEncodeError as error:
        raise BadRowError("text that is no Unicode") from error


def _chosen(loaded: Loaded, wanted: DatasetSettings, seed: int) -> list[Example]:
    examples = loaded.examples
    if wanted.difficulties:
        examples = [example for example in examples if example.problem.difficulty in wanted.difficulties]
        if not examples:
            there = sorted({example.problem.difficulty for example in loaded.examples})
            raise DataError(f"{loaded.origin} has no problem of these difficulties; it has {there}")
    if wanted.limit is None or wanted.limit >= len(examples):
        return examples
    drawn = sorted(examples, key=lambda example: derive_seed(seed, "limit", example.problem.id))[: wanted.limit]
    ids = {example.problem.id for example in drawn}
    return [example for example in examples if example.problem.id in ids]


def _find(dataset: DataSet, wanted: DatasetSettings) -> tuple[str, Iterator[tuple[int, Row | None]]]:
    """Where a known data set's split is, and its numbered rows."""
    split = wanted.split or next(iter(dataset.splits))
    path = _local_file(dataset, split, wanted.path)
    origin = f"{dataset.hub} ({split}) on the Hugging Face hub" if path is None else str(path)
    rows = enumerate(hub_rows(dataset, split) if path is None else file_rows(path), 1)
    belongs = dataset.belongs
    if belongs is None:
        return origin, rows
    return origin, ((number, row) for number, row in rows if row is None or belongs(row, split))


def _local_file(dataset: DataSet, split: str, named: str | None) -> Path | None:
    """The file of a split: the one that is named, else one in the folder that SRPO_DATA names, else None."""
    if named is not None and Path(named).suffix in SUFFIXES:
        return Path(named)
    if named is not None:
        folders = [Path(named)]
    elif root := os.environ.get(FOLDER_VARIABLE):
        if not Path(root).is_dir():
            raise DataError(f"{FOLDER_VARIABLE} names {root}, and there is no such folder")
        folders = [Path(root) / dataset.name, Path(root) / f"{dataset.name}_{split}"]
    else:
        return None
    # A file with the data set's name holds every split: only where a row tells its own, or there is but one.
    whole = dataset.belongs is not None or len(dataset.splits) == 1
    stems = [split, dataset.name] if whole else [split]
    files = [folder / f"{stem}{suffix}" for folder in folders for stem in stems for suffix in SUFFIXES]
    found = next((file for file in files if file.is_file()), None)
    if found is None and named is not None:
        raise DataError(f"{named} has no file for the split {split} of {dataset.name}, such as {files[0].name}")
    return found


def _named_example(dataset: DataSet, row: Row) -> Example:
    parts = dataset.read(row)
    problem = Problem(dataset.domain, parts.difficulty, parts.question, parts.answer, dataset.name)
    return Example(problem, parts.reference)


def _own_example(row: Row, wanted: DatasetSettings, stem: str) -> Example:
    ours = _renamed(row, wanted.columns)
    domain = ours.get("domain") or wanted.domain
    if domain not in ("math", "code"):
        raise BadRowError("no domain: neither a column `domain` with math or code, nor the setting")
    source = text_of(ours, "source") if ours.get("source") is not None else stem
    if source == LAB:
        raise BadRowError(f"the source {LAB!r}, which is the lab's own")
    if domain == "math":
        answer = answer_text(ours.get("answer"))
    elif ours.get("answer") is not None:
        answer = _checked_tests(text_of(ours, "answer"))
    else:
        answer = read_code_columns(ours)
    problem = Problem(domain, difficulty_of(ours.get("difficulty")), text_of(ours, "question"), answer, source)
    return Example(problem, ours.get("reference") if isinstance(ours.get("reference"), str) else None)


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    if missing := [name for name in columns.values() if name not in row]:
        raise BadRowError(f"no column {missing[0]}")
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}


def _checked_tests(answer: str) -> str:
    try:
        return CodeTests.from_json(answer).to_json()
    except ValueError as error:
        raise BadRowError(f"tests that cannot be used: {str(error).partition(':')[0]}") from error
