"""From a row of a published data set to a problem with what is known to solve it: one reader for each shape of rows."""

import ast
import base64
import io
import json
import math
import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srpo_core.problems.problem import Problem
from srpo_core.rewards.answers.extraction import extract_answer
from srpo_core.rewards.code import CodeTests

Row = Mapping[str, Any]

DIFFICULTIES = ("unknown", "easy", "medium", "hard")
"""Difficulty classes in words; their places are the numbers that `Problem.difficulty` has."""

TESTS_NOTE = "Your program must pass tests such as this one:"
WHOLE_NOTE = "Complete this program, and give the whole of it:"
STDIN_NOTE = "The program reads its input from standard input and prints its answer to standard output."
NOTES = (TESTS_NOTE, WHOLE_NOTE, STDIN_NOTE)
"""What the readers add to questions, so that they tell what is judged; it is no part of what a question asks."""

_LONGEST_TESTS = 64 << 20  # characters of packed tests, unpacked: more is no test set but a bomb


class BadRowError(ValueError):
    """A row that gives no problem; the message is the reason, in a few words that do not depend on the row."""


@dataclass(frozen=True)
class Example:
    """A problem, and a completion that must be judged right, where the data set has one."""

    problem: Problem
    reference: str | None


@dataclass(frozen=True)
class Parts:
    """What a reader takes from a row: the problem but for its domain and source, and the reference completion."""

    question: str
    answer: str
    difficulty: int = 0
    reference: str | None = None


Reader = Callable[[Row], Parts]


def read_gsm8k(row: Row) -> Parts:
    """GSM8K: the answer follows `####` at the end of the solution."""
    _, mark, answer = text_of(row, "answer").rpartition("####")
    if not mark or not answer.strip():
        raise BadRowError("no answer after ####")
    return Parts(text_of(row, "question"), answer.strip(), 0, _boxed(answer))


def read_math(row: Row) -> Parts:
    """MATH, AIME, AMC: `problem` or `question`, and an `answer` or a `solution` that boxes it; `level` 1 to 5."""
    question = text_of(row, "problem" if row.get("problem") is not None else "question")
    solution = row.get("solution") if isinstance(row.get("solution"), str) else None
    answer = _plain_number(row.get("answer"))
    if answer is None:
        answer = extract_answer(solution) if solution and "\\boxed" in solution else None
    if answer is None or not answer.strip():
        raise BadRowError("no answer")
    level = row.get("level") if row.get("level") is not None else row.get("difficulty")
    return Parts(question, answer.strip(), difficulty_of(level), solution or _boxed(answer))


def read_mbpp(row: Row) -> Parts:
    """MBPP, full or sanitized: all asserts judge, and the first is shown: the text alone names no function."""
    given = row.get("text") if row.get("text") is not None else row.get("prompt")
    asserts = [*_texts(row, "test_list"), *_texts(row, "challenge_test_list")]
    setup = row.get("test_setup_code") or "\n".join(_texts(row, "test_imports"))
    tests = _tests(asserts=tuple(asserts), setup=setup)
    shown = f"{TESTS_NOTE}\n\n```python\n{asserts[0].strip()}\n```"
    reference = row.get("code")
    return Parts(f"{_text(given, 'text')}\n\n{shown}", tests, 0, reference and fenced(reference))


def read_humaneval(row: Row) -> Parts:
    """HumanEval: a function to complete; helpers that its prompt defines are the tests' own, not the candidate's."""
    prompt, name = text_of(row, "prompt", strip=False), text_of(row, "entry_point")
    solution = row.get("canonical_solution")
    tests = _tests(check=text_of(row, "test", strip=False), entry_point=name, setup=_helpers(prompt, name))
    question = f"{WHOLE_NOTE}\n\n```python\n{prompt.strip()}\n```"
    return Parts(question, tests, 0, fenced(prompt + solution) if isinstance(solution, str) else None)


def read_livecodebench(row: Row) -> Parts:
    """LiveCodeBench: contest programs, or methods of a class `Solution` whose calls the tests write out."""
    cases = _cases(row.get("public_test_cases")) + _cases(row.get("private_test_cases"))
    statement, starter = text_of(row, "question_content"), row.get("starter_code") or ""
    if not cases:
        raise BadRowError("no tests")
    if cases[0].get("testtype") == "functional":
        name = _json(row.get("metadata") or "{}").get("func_name")
        if not isinstance(name, str) or not name.isidentifier():
            raise BadRowError("functional tests without a function's name")
        tests = _tests(asserts=tuple(_call(name, case) for case in cases), setup=_AS_LIST)
        question = f"{statement}\n\n{WHOLE_NOTE}\n\n```python\n{starter.strip()}\n```"
    else:
        inputs, outputs = ([str(case.get(side, "")) for case in cases] for side in ("input", "output"))
        tests = _tests(inputs=tuple(inputs), outputs=tuple(outputs))
        question = f"{statement}\n\n{STDIN_NOTE}"
    return Parts(question, tests, difficulty_of(row.get("difficulty")))


def read_contest(row: Row) -> Parts:
    """CodeContests, as published (three sets of tests) or with its tests in one `tests` column."""
    statement = text_of(row, "problem" if row.get("problem") is not None else "description")
    inputs: list[str] = []
    outputs: list[str] = []
    if row.get("tests") is not None:
        inputs, outputs = _texts(row["tests"], "inputs"), _texts(row["tests"], "outputs")
    for column in ("public_tests", "private_tests", "generated_tests"):
        if (tests := row.get(column)) is not None:
            inputs, outputs = inputs + _texts(tests, "input"), outputs + _texts(tests, "output")
    if row.get("input_file") or row.get("output_file"):
        raise BadRowError("tests that want files")
    return Parts(f"{statement}\n\n{STDIN_NOTE}", _tests(inputs=tuple(inputs), outputs=tuple(outputs)))


def read_code_columns(row: Row) -> str:
    """The tests of a row in the columns that CodeTests has fields for, as `Problem.answer` holds them."""
    fields: dict[str, Any] = {}
    for name in CodeTests.__dataclass_fields__:
        if row.get(name) is not None:
            fields[name] = tuple(_texts(row, name)) if name in ("asserts", "inputs", "outputs") else text_of(row, name)
    return _tests(**fields)


def difficulty_of(value: Any) -> int:
    """A difficulty class: a number as it is, `Level 3`, or one of DIFFICULTIES; 0 for anything else."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in DIFFICULTIES:
            return DIFFICULTIES.index(word)
        value = word.removeprefix("level").strip()
        return int(value) if value.isascii() and value.isdigit() else 0
    if isinstance(value, (int, float)) and float(value).is_integer() and value >= 0:
        return int(value)
    return 0


def text_of(row: Row, column: str, *, strip: bool = True) -> str:
    """The text in a column. Raises BadRowError when there is none."""
    return _text(row.get(column), column, strip=strip)


def fenced(program: str) -> str:
    """A program as a completion gives it."""
    return f"```python\n{program.rstrip()}\n```"


def answer_text(value: Any) -> str:
    """An answer in a column, a text or a number. Raises BadRowError when there is none."""
    answer = _plain_number(value)
    if answer is None or not answer.strip():
        raise BadRowError("no answer")
    return answer.strip()


def _text(value: Any, column: str, *, strip: bool = True) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"no text in column {column}")
    return value.strip() if strip else value


def _texts(row: Any, column: str) -> list[str]:
    values = row.get(column) if isinstance(row, Mapping) else None
    values = [] if values is None else values
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise BadRowError(f"column {column} is no list of texts")
    return list(values)


def _plain_number(value: Any) -> str | None:
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value if math.isfinite(value) else None
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer.strip()}}}"


def _tests(**fields: Any) -> str:
    try:
        return CodeTests(**fields).to_json()
    except ValueError as error:
        raise BadRowError(f"tests that cannot be used: {str(error).partition(':')[0]}") from error


def _helpers(prompt: str, entry_point: str) -> str:
    """What a HumanEval prompt defines beside the function that is asked for, if it defines functions."""
    try:
        body = ast.parse(prompt).body
    except SyntaxError as error:
        raise BadRowError("a prompt that is no Python") from error
    others = [node for node in body if getattr(node, "name", None) != entry_point]
    return "\n".join(map(ast.unparse, others)) if any(isinstance(node, ast.FunctionDef) for node in others) else ""


# LiveCodeBench takes a tuple for a list, as its own judge does.
_AS_LIST = "def as_list(value):\n    return list(value) if isinstance(value, tuple) else value"


def _call(name: str, case: Row) -> str:
    """A functional test as an assert: each line of its input is an argument in JSON, its output is JSON."""
    arguments = [repr(_json(line)) for line in str(case.get("input", "")).splitlines() if line.strip()]
    return f"assert as_list(Solution().{name}({', '.join(arguments)})) == {_json(str(case.get('output', '')))!r}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRowError("a test that is no JSON") from error


def _cases(packed: Any) -> list[Row]:
    """Test cases as JSON, or packed as LiveCodeBench packs the hidden ones: a pickled text, deflated, in base 64."""
    if packed is None or packed == "":
        return []
    cases = packed
    if isinstance(packed, str):
        cases = _json(packed if packed.lstrip().startswith("[") else _unpacked(packed))
    if not isinstance(cases, list) or not all(isinstance(case, Mapping) for case in cases):
        raise BadRowError("tests that are no list of cases")
    return cases


def _unpacked(packed: str) -> str:
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(packed), _LONGEST_TESTS)
        if unzip.unconsumed_tail:
            raise BadRowError("tests of more than 64 MiB")
        text = _TextUnpickler(io.BytesIO(data)).load()
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, IndexError) as error:
        if isinstance(error, BadRowError):
            raise
        raise BadRowError("tests that cannot be unpacked") from error
    if not isinstance(text, str):
        raise BadRowError("tests that cannot be unpacked")
    return text


class _TextUnpickler(pickle.Unpickler):
    """Reads a pickled text, and nothing that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no text")
