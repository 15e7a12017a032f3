"""Runs the tests of function-call problems, in a sandboxed process of its own, against a candidate in another one."""

import builtins
import importlib
import json
import os
from types import CodeType
from typing import Any

from srpo_core.rewards.code_names import home_of, is_standard, names_of_tests
from srpo_core.rewards.remote import Candidate
from srpo_core.sandbox.inside.peer import TooMuchError

_CHANNEL, _REPORT = 4, 5


def main(job: dict[str, Any]) -> None:
    """Entry of a sandboxed process: `job` holds `setup`, `asserts`, `check`, `entry_point`, `limit`.

    Writes JSON, a line per test: {"verdict", "text", "of_test": true}; a line with false tells why it ended early.
    """
    os.dup2(1, _REPORT)
    os.dup2(2, 1)  # what the tests print is nobody's result
    candidate = Candidate(_CHANNEL, job["limit"])
    names = _first_word(candidate)
    if names is not None:
        _run_all(candidate, names, job)


def _first_word(candidate: Candidate) -> list[str] | None:
    """The names that the candidate defines, once its program has run."""
    try:
        word = candidate.peer.receive()
    except Exception as error:
        _end_of(candidate, error)
        return None
    if "refused" in word:
        _report("compile_error", str(word["refused"]))
    elif "raised" in word:
        _report("memory_exceeded" if "MemoryError" in word["raised"] else "runtime_error", str(word.get("told")))
    elif isinstance(word.get("names"), list):
        return [name for name in word["names"] if isinstance(name, str)]
    else:
        _report("runtime_error", "its first message is none of ours")
    return None


def _run_all(candidate: Candidate, names: list[str], job: dict[str, Any]) -> None:
    texts = [job["setup"], *job["asserts"], job["check"] or ""]
    space: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    try:
        subjects, others = names_of_tests(texts, job["entry_point"])
        for name in others:
            if is_standard(name):
                space[name] = _standard_value(name)
        for name in (*subjects, *(name for name in others if name not in space)):
            if name in names:
                space[name] = candidate.name(name)
        exec(compile(job["setup"], "setup", "exec"), space)
        if job["check"]:
            exec(compile(job["check"], "check", "exec"), space)
    except Exception as error:
        _end_of(candidate, error, setup=True)
        return
    if job["check"]:
        if job["entry_point"] not in names:
            _report("runtime_error", f"the program does not define {job['entry_point']}")
            return
        space["candidate"] = space[job["entry_point"]]
        _run_one(candidate, compile("check(candidate)", "test", "exec"), space)
    for text in job["asserts"]:
        if not _run_one(candidate, compile(text, "test", "exec"), space):
            return


def _run_one(candidate: Candidate, test: CodeType, space: dict[str, Any]) -> bool:
    """Reports one test's result; False when no further one can be run."""
    try:
        exec(test, space)
        failure = None
    except BaseException as error:
        failure = error
    # Also when the test itself swallowed what went wrong.
    if candidate.peer.broken is not None or candidate.at_fault is not None:
        _end_of(candidate, candidate.peer.broken or candidate.at_fault)
        return False
    verdict, text = _verdict(failure)
    _report(verdict, text, of_test=True)
    return True


def _verdict(failure: BaseException | None) -> tuple[str, str]:
    if failure is None:
        return "passed", ""
    if isinstance(failure, MemoryError):
        return "memory_exceeded", _told(failure)
    if hasattr(failure, "candidate_told"):
        return "runtime_error", failure.candidate_told
    if isinstance(failure, NameError):
        return "runtime_error", f"the tests need what the program does not define: {failure}"
    return "wrong_answer", _told(failure)


def _end_of(candidate: Candidate, error: BaseException | None, setup: bool = False) -> None:
    broken = candidate.peer.broken
    if isinstance(broken, TooMuchError):
        _report("output_limit", str(broken))
    elif broken is not None:
        _report("gone" if "gone" in str(broken) else "runtime_error", str(broken))
    elif hasattr(error, "candidate_told") or isinstance(error, NameError):
        _report("runtime_error", getattr(error, "candidate_told", str(error)))
    else:
        _report("bad_tests", ("their setup fails: " if setup else "") + str(error))


def _standard_value(name: str) -> Any:
    """A candidate that defines `isclose` or `Counter` does not get to judge with it."""
    home = home_of(name)
    return getattr(importlib.import_module(home), name) if home else importlib.import_module(name)


def _told(failure: BaseException) -> str:
    try:
        return f"{type(failure).__name__}: {failure}"[:300]
    except BaseException:
        return type(failure).__name__


def _report(verdict: str, text: str, *, of_test: bool = False) -> None:
    line = json.dumps({"verdict": verdict, "text": text[:300], "of_test": of_test})
    os.write(_REPORT, line.encode() + b"\n")
