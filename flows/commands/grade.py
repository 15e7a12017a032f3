"""`srpo grade`: the verifiers on a file of answers, one JSON line in, one JSON line out."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Annotated, Any, BinaryIO

import typer

from flows.commands.common import WRONG_USE, SetOption, told_errors
from flows.runs import WrongUseError
from srpo_core.rewards.code import CodeTests
from srpo_core.rewards.verifiers import SOLVED, Verifiers
from srpo_core.settings_file import default_settings

Row = dict[str, Any]
Judge = Callable[[Verifiers, Sequence[Row]], list[tuple[str, float]]]

BATCH_LINES = 64  # lines judged together: enough for every worker, few enough that answers appear as they come

app = typer.Typer(help="Judge answers in a file with the verifiers that training uses.", no_args_is_help=True)
FileArgument = Annotated[str, typer.Argument(metavar="FILE.jsonl", help="One JSON object a line; - is standard input.")]


class BadInputError(ValueError):
    """A line that cannot be judged; the message says why."""


@app.command()
def math(file: FileArgument, changes: SetOption = None) -> None:
    """Judge math answers: lines of {"gold", "prediction"}, the prediction a whole completion or a boxed answer.

    Each line comes back with "correct", "verdict" and "seconds". The exit status is 2 when a line was bad input.
    """
    _grade(file, changes, _check_math, _judge_math)


@app.command()
def code(file: FileArgument, changes: SetOption = None) -> None:
    """Judge programs: lines of {"code"} and their tests, "tests", "test", or "inputs" and "outputs".

    "tests" is a list of asserts, "test" a program that defines check(candidate) for "entry_point", "inputs" and
    "outputs" are texts for standard input and output; "setup" runs before asserts. Each line comes back with
    "correct", "verdict" and "seconds". The exit status is 2 when a line was bad input.
    """
    _grade(file, changes, _check_code, _judge_code)


def _grade(file: str, changes: list[str] | None, check: Callable[[Row], None], judge: Judge) -> None:
    with told_errors(), ExitStack() as stack:
        settings = default_settings(changes or [])
        lines = stack.enter_context(_opened(file))
        verifiers = stack.enter_context(Verifiers(settings.verifiers, check_thought=True))
        bad = False
        for batch in _batches(lines):
            for answer in _judged(batch, check, lambda rows: judge(verifiers, rows)):
                bad = bad or answer["verdict"] == "bad_input"
                typer.echo(json.dumps(answer))
        if bad:
            raise typer.Exit(WRONG_USE)


def _judged(
    batch: list[tuple[int, bytes]],
    check: Callable[[Row], None],
    judge: Callable[[Sequence[Row]], list[tuple[str, float]]],
) -> Iterator[Row]:
    """One answer per line, in order: the line's own fields and what was judged of it."""
    rows: list[tuple[Row, str | None]] = []
    for number, line in batch:
        row: Row = {}
        try:
            row = _read(line)
            check(row)
            rows.append((row, None))
        except ValueError as error:
            rows.append((row | {"line": number}, str(error)))
    judged = iter(judge([row for row, fault in rows if fault is None]))
    for row, fault in rows:
        if fault is None:
            verdict, seconds = next(judged)
            yield row | {"correct": verdict in SOLVED, "verdict": verdict, "seconds": round(seconds, 6)}
        else:
            yield row | {"correct": False, "verdict": "bad_input", "seconds": 0.0, "error": fault}


def _batches(lines: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """The lines that hold something, with their numbers: as many at a time as have come, never waiting for more."""
    come: Queue[tuple[int, bytes] | OSError | None] = Queue(BATCH_LINES)

    def read() -> None:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    come.put((number, line))
            come.put(None)
        except OSError as error:
            come.put(error)

    Thread(target=read, daemon=True).start()
    batch = []
    while (line := come.get()) is not None:
        if isinstance(line, OSError):
            raise WrongUseError(f"the input cannot be read to its end: {line.strerror}") from line
        batch.append(line)
        if len(batch) == BATCH_LINES or come.empty():
            yield batch
            batch = []
    if batch:
        yield batch


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise WrongUseError(f"{file} cannot be read: {error.strerror}") from error


def _read(line: bytes) -> Row:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the line is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadInputError(f"the line must be a JSON object, not {type(row).__name__}")
    return row


def _refuse_constant(name: str) -> None:
    raise BadInputError(f"{name} is no JSON")


def _text(row: Row, field: str) -> str:
    if not isinstance(row.get(field), str):
        raise BadInputError(f"the field {field!r} must be a text" + ("" if field in row else "; it is missing"))
    return str(row[field])


def _texts(row: Row, field: str) -> tuple[str, ...]:
    values = row.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadInputError(f"the field {field!r} must be a list of texts")
    return tuple(values)


def _check_math(row: Row) -> None:
    for field in ("gold", "prediction"):
        _text(row, field)


def _judge_math(verifiers: Verifiers, rows: Sequence[Row]) -> list[tuple[str, float]]:
    judged = verifiers.math.judge([(row["gold"], row["prediction"]) for row in rows]) if rows else []
    return [(each.verdict, each.seconds) for each in judged]


def _tests(row: Row) -> CodeTests:
    """The tests of a line. Raises ValueError when they are missing, or of two forms at once."""
    optional = {name: _text(row, name) for name in ("test", "entry_point", "setup") if row.get(name) is not None}
    return CodeTests(
        asserts=_texts(row, "tests"),
        check=optional.get("test"),
        inputs=_texts(row, "inputs"),
        outputs=_texts(row, "outputs"),
        entry_point=optional.get("entry_point"),
        setup=optional.get("setup", ""),
    )


def _check_code(row: Row) -> None:
    _text(row, "code")
    _tests(row)


def _judge_code(verifiers: Verifiers, rows: Sequence[Row]) -> list[tuple[str, float]]:
    judged = verifiers.code.judge([(row["code"], _tests(row)) for row in rows]) if rows else []
    return [(each.verdict, each.seconds) for each in judged]
