"""Difficulty by pass@k: each problem of a file is sampled k times from a policy, and what it solved is its label.

What is done is kept in a journal beside the output, a line for each problem, so that an interrupted labelling goes on:
its rollouts' seeds depend on nothing but the run seed, the problem and the sample.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.data_files import problem_row, write_rows
from flows.engines import engine_directory
from flows.metrics import Stopwatch
from flows.runs import WrongUseError
from flows.sampler import Sampler
from srpo_core.config import Settings
from srpo_core.problems.datasets import Loaded
from srpo_core.problems.examples import DIFFICULTIES
from srpo_core.problems.problem import Problem
from srpo_core.seeds import derive_seed

EASY_FROM = 0.75


def difficulty_label(correct: int, graded: int) -> str:
    """`hard`: none of the graded rollouts is right (pass@k is 0); `easy`: at least three of four are; else `medium`.

    `unknown` when none could be graded. SRPO labels by pass@k; where it draws the lines is not known, these are ours.
    """
    if graded == 0:
        return "unknown"
    if correct == 0:
        return "hard"
    return "easy" if correct >= EASY_FROM * graded else "medium"


def label_problems(
    loaded: Loaded, out: Path, policy: Path, settings: Settings, samples: int, tell: Callable[[str], None]
) -> dict[str, int]:
    """Write `out`, the problems with `difficulty`, `pass_rate`, `correct` and `graded`; gives how many have each label.

    Raises PolicyError, EngineError, SandboxUnavailable, and WrongUseError when a journal of other work is there.
    """
    journal = _Journal(out.with_name(f"{out.name}.partial"), _work(loaded, policy, settings, samples))
    missing = [problem for problem in loaded.problems if problem.id not in journal.done]
    batch = settings.rollout.groups_per_shard
    if missing:
        with engine_directory() as scratch, Sampler(settings, scratch) as sampler:
            sampler.load(policy)
            for first in range(0, len(missing), batch):
                journal.append(_sampled(sampler, missing[first : first + batch], settings, samples))
                tell(f"{len(journal.done)} of {len(loaded.examples)} problems sampled {samples} times")
    rows, counts = [], dict.fromkeys(reversed(DIFFICULTIES), 0)
    for example in loaded.examples:
        correct, graded = journal.done[example.problem.id]
        label = difficulty_label(correct, graded)
        counts[label] += 1
        rate = correct / graded if graded else None
        rows.append(problem_row(example, difficulty=label, pass_rate=rate, correct=correct, graded=graded))
    write_rows(out, rows)
    journal.path.unlink()
    return {label: count for label, count in counts.items() if count}


def _sampled(
    sampler: Sampler, problems: Sequence[Problem], settings: Settings, samples: int
) -> dict[str, tuple[int, int]]:
    """(correct, graded) of each problem, by its id."""

    def seed_of(problem: Problem, sample: int) -> int:
        return derive_seed(settings.seed, "label", problem.id, sample)

    accuracies: dict[str, list[float]] = defaultdict(list)
    for rollout, grade in sampler.sample(problems, samples, seed_of, Stopwatch(), kind="evaluate"):
        accuracies[rollout.problem.id] += [] if grade.accuracy is None else [grade.accuracy]
    return {key: (sum(value >= 1 - 1e-6 for value in values), len(values)) for key, values in accuracies.items()}


def _work(loaded: Loaded, policy: Path, settings: Settings, samples: int) -> dict[str, Any]:
    """What labels depend on: another of these is another work."""
    weights = hashlib.sha256()
    for file in sorted(policy.glob("*.safetensors")):
        with file.open("rb") as opened:
            weights.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
    problems = hashlib.sha256("".join(problem.id for problem in loaded.problems).encode()).hexdigest()
    return {
        "problems": problems,
        "policy": weights.hexdigest(),
        "samples": samples,
        "seed": settings.seed,
        "template": settings.problems.template,
        "temperature": settings.rollout.temperature,
        "max_new_tokens": settings.rollout.max_new_tokens,
        "verifiers": settings.verifiers.model_dump(exclude={"workers"}),
        "check_thought": settings.rewards.check_thought,
    }


class _Journal:
    """What is done, a line each after a first line that says of which work; a torn last line counts for nothing."""

    def __init__(self, path: Path, work: dict[str, Any]) -> None:
        self.path = path
        self.done: dict[str, tuple[int, int]] = {}
        if not path.exists():
            self._write([work])
            return
        lines = path.read_bytes().split(b"\n")
        whole = [json.loads(line) for line in lines[:-1]]
        if not whole:
            self._write([work])
            return
        if whole[0] != work:
            changed = ", ".join(sorted(key for key in work if whole[0].get(key) != work[key]))
            raise WrongUseError(
                f"{path} is of another labelling ({changed} differ): remove it to begin anew, or finish that one"
            )
        self.done = {line["problem"]: (line["correct"], line["graded"]) for line in whole[1:]}
        os.truncate(path, len(b"\n".join(lines[:-1])) + 1)

    def append(self, found: dict[str, tuple[int, int]]) -> None:
        """Keep what was found, durably."""
        self._write([{"problem": key, "correct": right, "graded": of} for key, (right, of) in found.items()])
        self.done |= found

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        with self.path.open("ab") as file:
            file.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
