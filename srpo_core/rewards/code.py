"""Judges programs by tests: calls checked by asserts, or standard input to standard output. See docs/verifiers.md."""

import ast
import json
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, Self

from srpo_core.rewards.code_names import names_of_tests
from srpo_core.sandbox import Isolation, Limits, Profile, SandboxError, isolate
from srpo_core.sandbox.supervisor import Outcome, Task, run_together
from srpo_core.sandbox.zygote import Zygote

CodeVerdict = Literal[
    "passed",
    "wrong_answer",
    "compile_error",
    "runtime_error",
    "timeout",
    "memory_exceeded",
    "output_limit",
    "sandbox_error",
]

_SERVE, _PROGRAM = "srpo_core.sandbox.inside.serve", "srpo_core.sandbox.inside.program"
_CHECKER = "srpo_core.rewards.code_checker"
_CHECKER_MODULES = (_CHECKER, "srpo_core.rewards.remote", "srpo_core.rewards.code_names")
_JOBS_OF_A_ZYGOTE = 2000
_CHECKER_SECONDS = 5.0
_MESSAGE = 500
_LONGEST_PROGRAM = 2**20
_PYTHON = {"python", "python3", "py"}
_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class CodeTests:
    """A problem's tests, in exactly one form; `Problem.answer` holds them as JSON.

    `asserts`: statements that call the candidate's names. `check`: a program that defines `check(candidate)`, called
    with `entry_point`. `inputs` and `outputs`: of whole programs. `setup` runs before asserts and check, beside them.
    Raises ValueError for no tests, more than one form, or tests that cannot be read.
    """

    asserts: tuple[str, ...] = ()
    check: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    entry_point: str | None = None
    setup: str = ""

    def __post_init__(self) -> None:
        forms = [bool(self.asserts), self.check is not None, bool(self.inputs or self.outputs)]
        if sum(forms) == 0:
            raise ValueError("a problem without tests: it needs asserts, check, or inputs and outputs")
        if sum(forms) > 1:
            raise ValueError("tests of more than one form: give asserts, or check, or inputs and outputs")
        if len(self.inputs) != len(self.outputs):
            raise ValueError(f"{len(self.inputs)} inputs, but {len(self.outputs)} outputs")
        if not self.inputs:
            self._check_texts()

    @property
    def total(self) -> int:
        """How many tests there are; a `check` is one."""
        return len(self.asserts) or len(self.inputs) or 1

    def to_json(self) -> str:
        """The tests as one line; fields that say nothing are left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "CodeTests":
        """What `to_json` wrote. Raises ValueError that says what is wrong with it."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or not fields.keys() <= cls.__dataclass_fields__.keys():
            raise ValueError(f"tests are an object with some of {', '.join(cls.__dataclass_fields__)}")
        for name, value in fields.items():
            listed = name in ("asserts", "inputs", "outputs")
            if not (_is_texts(value) if listed else isinstance(value, str)):
                raise ValueError(f"tests: {name} must be {'a list of texts' if listed else 'a text'}")
        given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in fields.items()}
        return cls(**given)

    def _check_texts(self) -> None:
        texts = [self.setup, *self.asserts, self.check or ""]
        try:
            subjects, _ = names_of_tests(texts, self.entry_point)
            trees = [ast.parse(text) for text in self.asserts or (self.check or "",)]
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"tests that are no Python: {error}") from error
        if not all(any(isinstance(node, ast.Assert) for node in ast.walk(tree)) for tree in trees):
            raise ValueError("a test without an assert, which every program would pass")
        if self.check is not None:
            names = [node.name for node in trees[0].body if isinstance(node, ast.FunctionDef)]
            if "check" not in names:
                raise ValueError("check must define a function check(candidate)")
            if self.entry_point is None:
                raise ValueError("check needs entry_point, the name of the function that it is called with")
        elif not subjects:
            raise ValueError("asserts that call nothing of the candidate's; name it by entry_point")


@dataclass(frozen=True)
class CodeJudgement:
    """What tests say of a program. `message` is for people, and bounded; `seconds` is wall time."""

    verdict: CodeVerdict
    passed: int
    total: int
    seconds: float
    message: str


class CodeVerifier:
    """Judges programs in sandboxes, `workers` at a time. From any thread; close it, or use it as a context manager."""

    def __init__(
        self, *, workers: int = 1, limits: Limits = _DEFAULT_LIMITS, unsafe_no_isolation: bool = False
    ) -> None:
        """Starts nothing yet. Raises ValueError for workers below 1."""
        if workers < 1:
            raise ValueError(f"workers must be at least 1, it is {workers}")
        self._limits = limits
        self._unsafe = unsafe_no_isolation
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="code-verifier")
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers = workers
        self._lock = threading.Lock()
        self._isolated: tuple[Isolation, Profile] | None = None

    @property
    def isolation(self) -> Isolation:
        """How programs are isolated here. Raises SandboxUnavailable when they cannot be."""
        return self._isolate()[0]

    def judge(self, jobs: Sequence[tuple[str, CodeTests]]) -> list[CodeJudgement]:
        """One judgement per (program, tests), in order. Raises SandboxUnavailable."""
        self._isolate()
        return list(self._threads.map(self._judge_one, jobs))

    def close(self) -> None:
        """Ends the sandboxes, after what is being judged."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _isolate(self) -> tuple[Isolation, Profile]:
        with self._lock:
            if self._isolated is None:
                self._isolated = isolate(unsafe_no_isolation=self._unsafe)
                for _ in range(self._workers):
                    self._idle.put(_Worker(self._isolated[1], self._limits))
            return self._isolated

    def _judge_one(self, job: tuple[str, CodeTests]) -> CodeJudgement:
        worker = self._idle.get()  # as many threads as workers: never empty for long
        try:
            return worker.judge(*job)
        finally:
            self._idle.put(worker)


def extract_code(completion_or_answer: str) -> str | None:
    """The program in an answer: its last fenced Python block; without one, its last fenced block of no language;
    without any, the whole text. None when that is empty. A fence that is not closed is no block.
    """
    blocks = _fenced_blocks(completion_or_answer)
    python = [text for language, text in blocks if language in _PYTHON]
    unnamed = [text for language, text in blocks if not language]
    text = [completion_or_answer, *unnamed[-1:], *python[-1:]][-1]
    return text if text.strip() else None


def _fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Language (in small letters) and text of each block between ``` lines."""
    blocks: list[tuple[str, str]] = []
    language: str | None = None
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if language is None and mark.startswith("```"):
            language, lines = mark[3:].strip().lower(), []
        elif language is not None and mark == "```":
            blocks.append((language, "".join(lines)))
            language = None
        elif language is not None:
            lines.append(line)
    return blocks


def same_output(printed: str, expected: str) -> bool:
    """The contest's rule: equal line by line and word by word; blank lines and the amount of spaces do not count.

    Words are compared as texts: 0.50 is not 0.5.
    """
    return _words(printed) == _words(expected)


def _words(text: str) -> list[list[str]]:
    return [words for line in text.splitlines() if (words := line.split())]


class _Worker:
    """Two zygotes, each started when it is first wanted: the candidate's, and the checker's."""

    def __init__(self, profile: Profile, limits: Limits) -> None:
        self._profile = profile
        self._limits = limits
        self._zygotes: dict[str, Zygote] = {}

    def judge(self, code: str, tests: CodeTests) -> CodeJudgement:
        began = time.monotonic()
        if len(code) > _LONGEST_PROGRAM:
            return CodeJudgement("compile_error", 0, tests.total, 0.0, f"longer than {_LONGEST_PROGRAM:,} characters")
        judged = self._attempt(code, tests) or self._attempt(code, tests, last=True)
        assert judged is not None
        verdict, passed, message = judged
        return CodeJudgement(verdict, passed, tests.total, time.monotonic() - began, message[:_MESSAGE])

    def close(self) -> None:
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()

    def _attempt(self, code: str, tests: CodeTests, last: bool = False) -> "_Judged | None":
        try:
            return self._run_inputs(code, tests) if tests.inputs else self._run_calls(code, tests)
        except SandboxError as error:
            self.close()
            return ("sandbox_error", 0, str(error)) if last else None
        except BaseException:  # a job may still run in there
            self.close()
            raise

    def _zygote(self, role: str, entries: Sequence[str]) -> Zygote:
        zygote = self._zygotes.get(role)
        if zygote is not None and (zygote.jobs >= _JOBS_OF_A_ZYGOTE or not zygote.clean):
            del self._zygotes[role]
            zygote.close()
            zygote = None
        if zygote is None:
            zygote = self._zygotes[role] = Zygote(self._profile, entries)
        return zygote

    def _run_inputs(self, code: str, tests: CodeTests) -> "_Judged":
        first: tuple[CodeVerdict, str] | None = None
        passed = 0
        for number, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), 1):
            zygote = self._zygote("candidate", (_SERVE, _PROGRAM))
            task = Task(zygote, _PROGRAM, {"code": code}, self._limits, given.encode(errors="surrogatepass"))
            verdict, message = _verdict_of_program(run_together([task])[0], expected, self._limits)
            passed += verdict == "passed"
            if verdict != "passed" and first is None:
                first = verdict, f"input {number}: {message}"
            if verdict not in ("passed", "wrong_answer", "runtime_error"):
                first = verdict, f"input {number}: {message}"
                break
        return (*first[:1], passed, first[1]) if first else ("passed", passed, "")

    def _run_calls(self, code: str, tests: CodeTests) -> "_Judged":
        ours, theirs = socket.socketpair()
        with ours, theirs:
            candidate = Task(
                self._zygote("candidate", (_SERVE, _PROGRAM)),
                _SERVE,
                {"code": code, "limit": self._limits.output_bytes},
                self._limits,
                channel=ours,
                keep_output=False,
            )
            patient = replace(
                self._limits,
                wall_seconds=self._limits.wall_seconds + _CHECKER_SECONDS,
                memory_bytes=self._limits.memory_bytes + Limits.memory_bytes,
                output_bytes=max(self._limits.output_bytes, Limits.output_bytes),
            )
            job = {**asdict(tests), "limit": self._limits.output_bytes}
            checker = Task(self._zygote("checker", _CHECKER_MODULES), _CHECKER, job, patient, channel=theirs)
            told, checked = run_together([candidate, checker])
            return _verdict_of_calls(told, checked, tests.total, self._limits)


_Judged = tuple[CodeVerdict, int, str]


def _verdict_of_program(outcome: Outcome, expected: str, limits: Limits) -> tuple[CodeVerdict, str]:
    told = _status(outcome.status)
    if (limit := _limit_hit(outcome, limits)) is not None:
        return limit
    if told.get("kind") == "refused":
        return "compile_error", str(told.get("text"))
    if told.get("kind") == "memory":
        return "memory_exceeded", str(told.get("text"))
    if outcome.cause == "signalled" or outcome.code or told:
        return "runtime_error", str(told.get("text") or _ending(outcome))
    if same_output(outcome.output.decode(errors="replace"), expected):
        return "passed", ""
    return "wrong_answer", "another output than expected"


def _verdict_of_calls(candidate: Outcome, checker: Outcome, total: int, limits: Limits) -> _Judged:
    lines = [json.loads(line) for line in checker.output.splitlines()]
    results = [line for line in lines if line["of_test"]]
    passed = sum(line["verdict"] == "passed" for line in results)
    end = next((line for line in lines if not line["of_test"]), None)
    if end is not None and end["verdict"] == "bad_tests":
        raise SandboxError(f"the tests cannot be run: {end['text']}")
    for outcome in (candidate, checker):
        if (limit := _limit_hit(outcome, limits)) is not None:
            return limit[0], passed, limit[1]
    if end is not None:
        if end["verdict"] == "gone":
            return "runtime_error", passed, _ending(candidate)
        return end["verdict"], passed, end["text"]
    if len(results) < total:
        raise SandboxError(f"the checker gave {len(results)} of {total} results: {_ending(checker)}")
    failed = next(((number, line) for number, line in enumerate(results, 1) if line["verdict"] != "passed"), None)
    if failed is None:
        return "passed", passed, ""
    number, line = failed
    return line["verdict"], passed, f"test {number}: {line['text']}"


def _limit_hit(outcome: Outcome, limits: Limits) -> tuple[CodeVerdict, str] | None:
    if outcome.cause == "timeout":
        return "timeout", f"not done after {outcome.seconds:.1f} s, of them {outcome.cpu:.1f} s of processor time"
    if outcome.cause == "memory":
        return "memory_exceeded", f"more than {limits.memory_bytes // 2**20:,} MiB"
    if outcome.cause == "output":
        return "output_limit", f"more than {limits.output_bytes:,} bytes"
    return None


def _ending(outcome: Outcome) -> str:
    how = f"signal {outcome.code}" if outcome.cause == "signalled" else f"status {outcome.code}"
    return f"it ended before it was done, with {how}"


def _status(told: bytes) -> dict[str, Any]:
    try:
        status = json.loads(told) if told else {}
    except ValueError:
        status = {"kind": "raised", "text": "ended"}
    return status if isinstance(status, dict) else {"kind": "raised"}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
