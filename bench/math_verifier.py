"""Math answers judged a second, beside math-verify's own rate in the same run."""

import json
import logging
from pathlib import Path

from math_verify import parse, verify
from sympy.core.cache import clear_cache

from bench.figures import Figure, timed_in_turn
from srpo_core.rewards.answers.judging import read_gold
from srpo_core.rewards.math import MathVerifier, judge_math

PAIRS = Path(__file__).parent.parent / "tests" / "srpo_core" / "math_answer_pairs.jsonl"
Pairs = list[tuple[str, str]]


def math_figures(quick: bool) -> list[Figure]:
    """The tricky pairs of our tests, and plain whole numbers, on one core; our own caches are emptied for each round.

    In process beside math-verify in process; and through one worker, beside ours in process.
    """
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    rows = [json.loads(line) for line in PAIRS.read_text("utf-8").splitlines()]
    tricky = [(row["gold"], row["prediction"]) for row in rows if row["gold"]]
    whole = [(str(number), f"so it is \\boxed{{{number + number % 2}}}") for number in range(400)]
    right = [sum((_by_math_verify(row) == "correct") is row["correct"] for row in rows)]
    right.append(sum((judge_math(row["gold"], row["prediction"]) == "correct") is row["correct"] for row in rows))
    figures = [Figure("tricky pairs judged right", right[1] / len(rows), "of pairs", right[0] / len(rows))]
    with MathVerifier() as verifier:
        for name, pairs in (("tricky pairs", tricky), ("whole numbers", whole)):
            figures += _rates(name, pairs, verifier, 2 if quick else 7)
    return figures


def _rates(name: str, pairs: Pairs, verifier: MathVerifier, repetitions: int) -> list[Figure]:
    theirs, ours, worker = (
        len(pairs) / seconds
        for seconds in timed_in_turn(
            repetitions, lambda: _theirs(pairs), lambda: _ours(pairs), lambda: verifier.judge(pairs)
        )
    )
    return [
        Figure(f"{name}, in process (reference: math-verify)", ours, "pairs/s", theirs),
        Figure(f"{name}, one worker (reference: in process)", worker, "pairs/s", ours),
    ]


def _theirs(pairs: Pairs) -> None:
    clear_cache()
    for gold, prediction in pairs:
        _by_math_verify({"gold": gold, "prediction": prediction})


def _by_math_verify(row: dict[str, str]) -> str:
    return "correct" if verify(parse(f"${row['gold']}$"), parse(row["prediction"])) else "wrong_answer"


def _ours(pairs: Pairs) -> None:
    clear_cache()
    read_gold.cache_clear()
    for gold, prediction in pairs:
        judge_math(gold, prediction)
