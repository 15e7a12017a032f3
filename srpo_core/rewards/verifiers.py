"""Who judges what: the lab's problems by the lab's own rules, all others by the math and the code verifier."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

from srpo_core.problems.lab.world import SOURCE as LAB
from srpo_core.problems.lab.world import parse_question
from srpo_core.problems.problem import Problem
from srpo_core.rewards.code import CodeTests, CodeVerifier, extract_code
from srpo_core.rewards.format import read_sections
from srpo_core.rewards.lab.code import judge_expression, true_refactoring_thought
from srpo_core.rewards.lab.math import same_integer, true_running_thought
from srpo_core.rewards.math import UNGRADED as UNGRADED_MATH
from srpo_core.rewards.math import MathVerifier
from srpo_core.sandbox.limits import Limits
from srpo_core.settings.rewards import VerifierSettings

SOLVED = {"correct", "passed"}
UNGRADED = {"sandbox_error", *UNGRADED_MATH}
"""Verdicts that say nothing about the answer: the verifier or the problem failed, so the rollout leaves the update."""

MIB = 1 << 20


class UnsupportedProblemError(ValueError):
    """No verifier can judge this problem; the message names the problem and what is missing."""


@dataclass(frozen=True)
class Judgement:
    """What a verifier says of one completion: `accuracy` is 0 or 1, None when ungraded.

    `tests_passed` is the share of tests that a program passed, 0 to 1; None for answers that are no programs.
    """

    verdict: str
    accuracy: float | None
    tests_passed: float | None = None


class Verifiers:
    """Every verifier of a run, with the processes that it needs, which start when they are first needed."""

    def __init__(self, settings: VerifierSettings, *, check_thought: bool) -> None:
        """With `check_thought` an answer to a lab problem counts only if its running thought is right too."""
        self._settings = settings
        self._workers = settings.workers or len(os.sched_getaffinity(0))
        self._check_thought = check_thought
        self._processes = ExitStack()

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuse what cannot be judged here, before anything is sampled.

        Raises UnsupportedProblemError for a problem without an answer or tests, SandboxUnavailable when there are
        programs to run and nothing to isolate them with.
        """
        for problem in problems:
            if problem.source == LAB:
                continue
            try:
                _read_tests(problem) if problem.domain == "code" else _read_gold(problem)
            except ValueError as error:
                raise UnsupportedProblemError(
                    f"problem {problem.id} ({problem.domain}, source {problem.source!r}) cannot be judged: {error}"
                ) from error
        if self.runs_programs(problems):
            self.code.isolation  # noqa: B018 - asked for what it raises

    @staticmethod
    def runs_programs(problems: Sequence[Problem]) -> bool:
        """Whether judging these problems runs code that a model wrote. The lab's is only ever calculated."""
        return any(problem.source != LAB and problem.domain == "code" for problem in problems)

    def judge(self, answers: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        """What each completion is worth to the verifier of its problem, in order; (problem, completion) each."""
        places: dict[str, list[int]] = {"lab": [], "math": [], "code": []}
        for place, (problem, _) in enumerate(answers):
            places["lab" if problem.source == LAB else problem.domain].append(place)
        judges = {"lab": self._judge_lab, "math": self._judge_math, "code": self._judge_code}
        judgements: dict[int, Judgement] = {}
        for kind, mine in places.items():
            judgements |= zip(mine, judges[kind]([answers[place] for place in mine]), strict=True)
        return [judgements[place] for place in range(len(answers))]

    @cached_property
    def math(self) -> MathVerifier:
        """The processes that compare math answers."""
        settings = self._settings
        return self._processes.enter_context(
            MathVerifier(
                workers=self._workers, seconds=settings.math_seconds, memory_bytes=settings.math_memory_mib * MIB
            )
        )

    @cached_property
    def code(self) -> CodeVerifier:
        """The sandboxes that run programs."""
        settings = self._settings
        limits = Limits(
            wall_seconds=settings.code_wall_seconds,
            cpu_seconds=settings.code_cpu_seconds,
            memory_bytes=settings.code_memory_mib * MIB,
            output_bytes=settings.code_output_kib << 10,
            processes=settings.code_processes,
        )
        return self._processes.enter_context(
            CodeVerifier(workers=self._workers, limits=limits, unsafe_no_isolation=settings.unsafe_no_isolation)
        )

    def close(self) -> None:
        """End every process."""
        self._processes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _judge_lab(self, answers: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        return [_judgement(_LAB[problem.domain](problem, text, self._check_thought)) for problem, text in answers]

    def _judge_math(self, answers: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        if not answers:
            return []
        judged = self.math.judge([(_read_gold(problem), text) for problem, text in answers])
        return [_judgement(each.verdict) for each in judged]

    def _judge_code(self, answers: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        programs = {place: code for place, (_, text) in enumerate(answers) if (code := _program(text)) is not None}
        jobs = [(code, _read_tests(answers[place][0])) for place, code in programs.items()]
        judged = dict(zip(programs, self.code.judge(jobs) if jobs else [], strict=True))
        return [
            _judgement(judged[place].verdict, judged[place].passed / judged[place].total)
            if place in judged
            else _judgement("no_answer", 0.0)
            for place in range(len(answers))
        ]


def _judgement(verdict: str, tests_passed: float | None = None) -> Judgement:
    if verdict in UNGRADED:
        return Judgement(verdict, None)
    return Judgement(verdict, float(verdict in SOLVED), tests_passed)


def _program(completion: str) -> str | None:
    answer = read_sections(completion).answer
    return extract_code(completion if answer is None else answer)


def _read_gold(problem: Problem) -> str:
    if not problem.answer.strip():
        raise ValueError("it has no answer to compare with")
    return problem.answer


def _read_tests(problem: Problem) -> CodeTests:
    try:
        return CodeTests.from_json(problem.answer)
    except ValueError as error:
        raise ValueError(f"its tests cannot be used: {error}") from error


def _lab_math(problem: Problem, completion: str, check_thought: bool) -> str:
    sections = read_sections(completion)
    if sections.answer is None:
        return "no_answer"
    if not same_integer(sections.answer, problem.answer):
        return "wrong_answer"
    if not check_thought:
        return "correct"
    chain = parse_question("math", problem.question)
    operations = [(step.symbol, step.operand) for step in chain.operations]
    thought = sections.thought
    right = thought is not None and true_running_thought(thought, chain.start[0], operations, sections.answer)
    return "correct" if right else "wrong_thought"


def _lab_code(problem: Problem, completion: str, check_thought: bool) -> str:
    sections = read_sections(completion)
    if sections.answer is None:
        return "no_answer"
    outcome = judge_expression(sections.answer, problem.answer)
    if outcome != "correct" or not check_thought:
        return outcome
    chain = parse_question("code", problem.question)
    operations = [(step.symbol, step.operand) for step in chain.operations]
    slope, intercept = chain.start
    thought = sections.thought
    right = thought is not None and true_refactoring_thought(thought, (slope, intercept), operations, sections.answer)
    return "correct" if right else "wrong_thought"


_LAB: dict[str, Callable[[Problem, str, bool], str]] = {"math": _lab_math, "code": _lab_code}
