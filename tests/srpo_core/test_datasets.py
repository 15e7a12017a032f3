"""Rows of every shape become problems; what gives none is counted under a reason, and nothing is a crash."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from srpo_core.problems.datasets import load_dataset, parse_dataset
from srpo_core.problems.examples import BadRowError, read_humaneval, read_livecodebench, read_math, read_mbpp
from srpo_core.problems.known import DATASETS
from srpo_core.problems.rows import DataError
from srpo_core.rewards.code import CodeTests
from srpo_core.settings.problems import DatasetSettings

ROWS: list[dict[str, Any]] = [
    {"question": f"What is {n} + {n}?", "answer": 2 * n, "domain": "math", "difficulty": n % 4} for n in range(1, 21)
]


def written(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_json_jsonl_and_parquet_give_the_same_problems(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [written(tmp_path / f"mine.{suffix}", ROWS) for suffix in ("json", "jsonl")]
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "mine.parquet")
    one, two, three = (load_dataset(parse_dataset(str(file))).problems for file in [*files, tmp_path / "mine.parquet"])
    assert one == two == three
    assert [(p.answer, p.difficulty, p.source) for p in one[:2]] == [("2", 1, "mine"), ("4", 2, "mine")]


def test_a_larger_limit_only_adds_and_the_seed_draws(tmp_path: Path) -> None:
    path = str(written(tmp_path / "mine.jsonl", ROWS))
    drawn = [load_dataset(DatasetSettings(path=path, limit=n), seed=5).problems for n in (3, 8, 50)]
    assert [len(problems) for problems in drawn] == [3, 8, 20]
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2])
    assert drawn[1] == [problem for problem in drawn[2] if problem in drawn[1]]
    assert load_dataset(DatasetSettings(path=path, limit=3), seed=6).problems != drawn[0]


def test_difficulties_choose(tmp_path: Path) -> None:
    path = str(written(tmp_path / "mine.jsonl", ROWS))
    chosen = load_dataset(DatasetSettings(path=path, difficulties=(1, 3))).problems
    assert {problem.difficulty for problem in chosen} == {1, 3}
    with pytest.raises(DataError, match=r"of these difficulties; it has \[0, 1, 2, 3\]"):
        load_dataset(DatasetSettings(path=path, difficulties=(7,)))


def test_columns_are_mapped_and_the_domain_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": "Define f.", "checks": ["assert f(1) == 2"]}]
    wanted = {"path": str(written(tmp_path / "c.jsonl", rows)), "domain": "code"}
    columns = {"question": "prompt", "asserts": "checks"}
    (problem,) = load_dataset(DatasetSettings.model_validate(wanted | {"columns": columns})).problems
    assert CodeTests.from_json(problem.answer).asserts == ("assert f(1) == 2",)
    with pytest.raises(DataError, match="no column promt: 1 rows"):
        load_dataset(DatasetSettings.model_validate(wanted | {"columns": {"question": "promt"}}))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("not json", "no JSON object"),
        ([1], "no JSON object"),
        ({}, "no domain"),
        ({"domain": "math", "answer": "1"}, "no text in column question"),
        ({"domain": "math", "question": " ", "answer": "1"}, "no text in column question"),
        ({"domain": "math", "question": "q"}, "no answer"),
        ({"domain": "math", "question": "q", "answer": float("nan")}, "no answer"),
        ({"domain": "math", "question": "q", "answer": [1]}, "no answer"),
        ({"domain": "math", "question": "q \ud800", "answer": "1"}, "no Unicode"),
        ({"domain": "math", "question": "q", "answer": "1", "source": "lab"}, "the lab's own"),
        ({"domain": "code", "question": "q"}, "tests that cannot be used"),
        ({"domain": "code", "question": "q", "answer": "f(1) == 2"}, "tests that cannot be used"),
        ({"domain": "code", "question": "q", "asserts": ["f(1) == 2"]}, "tests that cannot be used"),
        ({"domain": "code", "question": "q", "asserts": "assert f(1)"}, "no list of texts"),
        ({"domain": "code", "question": "q", "inputs": ["1"], "outputs": []}, "tests that cannot be used"),
        (ROWS[0], "the same problem as an earlier row"),
    ],
)
def test_a_bad_row_is_counted_under_its_reason_and_the_others_stay(tmp_path: Path, row: Any, reason: str) -> None:
    path = written(tmp_path / "mine.jsonl", ROWS[:3])
    with path.open("a") as file:
        file.write("not json\n" if row == "not json" else f"{json.dumps(row)}\n")
    loaded = load_dataset(parse_dataset(str(path)))
    assert len(loaded.examples) == 3
    assert [refused.row for refused in loaded.refused] == [4]
    assert reason in loaded.refused[0].reason


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.just("Level 3"),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
       st.sampled_from(sorted(DATASETS)), st.data())  # fmt: skip
def test_no_row_makes_a_reader_crash(value: Any, name: str, data: st.DataObject) -> None:
    columns = ("question", "problem", "answer", "solution", "level", "text", "test_list", "code", "prompt", "test",
               "entry_point", "question_content", "public_test_cases", "private_test_cases", "metadata", "starter_code",
               "tests", "description", "public_tests", "test_setup_code", "canonical_solution")  # fmt: skip
    row = {column: data.draw(st.sampled_from([value, "x", None, ["assert f(1)"]])) for column in columns}
    try:
        parts = DATASETS[name].read(row)
    except BadRowError:
        return
    assert parts.question
    assert parts.answer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsm8k", "must be one of train, test"),
        ("gsm8k:dev", "must be one of train, test"),
        ("math50", "did you mean math500?"),
    ],
)
def test_a_wrong_name_or_split_is_answered_with_the_right_ones(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("?", r"\?")):
        parse_dataset(text)


def test_local_folders_are_looked_at_by_name_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gsm8k").mkdir()
    written(tmp_path / "gsm8k" / "test.jsonl", [{"question": "Two and two?", "answer": "2+2\n#### 4"}])
    monkeypatch.setenv("SRPO_DATA", str(tmp_path))
    (problem,) = load_dataset(parse_dataset("gsm8k:test")).problems
    assert (problem.answer, problem.source, problem.domain) == ("4", "gsm8k", "math")
    named = DatasetSettings(name="gsm8k", split="train", path=str(tmp_path / "gsm8k"))
    with pytest.raises(DataError, match=r"no file for the split train of gsm8k, such as train\.jsonl"):
        load_dataset(named)
    monkeypatch.setenv("SRPO_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="SRPO_DATA names"):
        load_dataset(parse_dataset("gsm8k:test"))


def test_a_file_that_is_not_there_or_no_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(parse_dataset(str(tmp_path / "gone.jsonl")))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        load_dataset(parse_dataset(str(tmp_path / "bad.json")))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no problem that can be used"):
        load_dataset(parse_dataset(str(tmp_path / "empty.jsonl")))


def test_without_a_hub_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SRPO_DATA", raising=False)
    script = (
        "from srpo_core.problems.datasets import *\nfrom srpo_core.problems.rows import DataError\n"
        "try: load_dataset(parse_dataset('aime24'))\nexcept DataError as error: print(error)"
    )
    import os
    import subprocess
    import sys

    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "data set aime24 cannot be had from the Hugging Face hub (math-ai/aime24)" in told
    assert "aime24/test.jsonl in SRPO_DATA" in told


def test_a_solution_gives_the_answer_where_there_is_no_answer_column() -> None:
    parts = read_math(
        {"problem": "q", "solution": r"so \boxed{3} is not it, \boxed{\frac{1}{2}} is", "level": "Level 4"}
    )
    assert (parts.answer, parts.difficulty) == (r"\frac{1}{2}", 4)
    assert read_math({"question": "q", "answer": 27.0}).answer == "27"
    assert read_math({"problem": "q", "answer": "x", "level": "Level ?"}).difficulty == 0


def test_a_code_question_names_what_is_tested() -> None:
    full = {"text": "Add.", "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], "code": "def add(a, b): …"}
    parts = read_mbpp(full)
    assert "assert add(1, 2) == 3" in parts.question
    assert "assert add(2, 2) == 4" not in parts.question
    assert CodeTests.from_json(parts.answer).total == 2


def test_helpers_of_a_humaneval_prompt_belong_to_the_tests() -> None:
    prompt = "import math\n\ndef poly(x):\n    return x * x\n\ndef root(y):\n    '''Of poly.'''\n"
    row = {"prompt": prompt, "entry_point": "root", "test": "def check(f):\n    assert poly(f(4)) == 4\n",
           "canonical_solution": "    return math.sqrt(y)\n"}  # fmt: skip
    tests = CodeTests.from_json(read_humaneval(row).answer)
    assert "def poly" in tests.setup
    assert "def root" not in tests.setup
    assert read_humaneval(row | {"prompt": "def root(y):\n    '''None.'''\n"}).answer.count("setup") == 0


def packed(cases: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


CASE = {"input": "[1, 2]\n3", "output": "[3, 6]", "testtype": "functional"}
FUNCTIONAL = {
    "question_content": "Scale.",
    "starter_code": "class Solution:\n    def scale(self, xs, k):\n        ",
    "metadata": '{"func_name": "scale"}',
    "public_test_cases": json.dumps([CASE]),
    "private_test_cases": packed([CASE | {"input": '["a"]\ntrue', "output": "null"}]),
    "difficulty": "medium",
}


def test_livecodebench_calls_become_asserts_and_its_programs_inputs() -> None:
    parts = read_livecodebench(FUNCTIONAL)
    asserts = CodeTests.from_json(parts.answer).asserts
    assert asserts == (
        "assert as_list(Solution().scale([1, 2], 3)) == [3, 6]",
        "assert as_list(Solution().scale(['a'], True)) == None",
    )
    assert "def scale(self, xs, k)" in parts.question
    assert parts.difficulty == 2
    stdin = FUNCTIONAL | {"private_test_cases": "", "starter_code": "",
                          "public_test_cases": [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]}  # fmt: skip
    tests = CodeTests.from_json(read_livecodebench(stdin).answer)
    assert (tests.inputs, tests.outputs) == (("1\n",), ("2\n",))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_packed_tests_run_no_code() -> None:
    armed = base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()
    with pytest.raises(BadRowError, match="cannot be unpacked"):
        read_livecodebench(FUNCTIONAL | {"private_test_cases": armed})
    huge = base64.b64encode(zlib.compress(b"\0" * (65 << 20), 9)).decode()
    with pytest.raises(BadRowError, match="64 MiB"):
        read_livecodebench(FUNCTIONAL | {"private_test_cases": huge})


def test_the_months_of_a_split_choose_contests() -> None:
    belongs = DATASETS["livecodebench"].belongs
    assert belongs is not None
    months = ["2024-07-31T00:00:00", "2024-08-01", "2025-01-31T12:00:00", "2025-02-01"]
    assert [belongs({"contest_date": month}, "2024.08-2025.01") for month in months] == [False, True, True, False]
    assert all(belongs({"contest_date": month}, "test") for month in months)
