"""The policy on math answers: pairs of our own, the tricky pairs and MATH-500 where the data is there, properties."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_core.rewards.math import judge_math

PAIRS = [
    json.loads(line) for line in Path(__file__).with_name("math_answer_pairs.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair['why']} {i}" for i, pair in enumerate(PAIRS)])
def test_a_pair_is_judged_as_documented(pair: dict[str, str | bool]) -> None:
    assert (judge_math(pair["gold"], pair["prediction"]) == "correct") is pair["correct"]


def test_no_pair_stands_twice() -> None:
    keys = [(pair["gold"], pair["prediction"]) for pair in PAIRS]
    assert len(set(keys)) == len(keys)


def test_the_tricky_pairs_agree_and_no_wrong_answer_is_accepted(shared_data: Path) -> None:
    pairs = [json.loads(line) for line in (shared_data / "math_pairs.jsonl").read_text("utf-8").splitlines()]
    said = [judge_math(pair["gold"], pair["prediction"]) == "correct" for pair in pairs]
    agreed = [correct is pair["correct"] for correct, pair in zip(said, pairs, strict=True)]
    accepted = [pair for correct, pair in zip(said, pairs, strict=True) if correct and not pair["correct"]]
    assert accepted == []
    assert sum(agreed) >= 0.97 * len(pairs)


@pytest.fixture(scope="module")
def math500(shared_data: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (shared_data / "math500" / "test.jsonl").read_text("utf-8").splitlines()]


def test_every_math500_answer_verifies_against_itself(math500: list[dict[str, str]]) -> None:
    assert [row for row in math500 if judge_math(row["answer"], f"\\boxed{{{row['answer']}}}") != "correct"] == []


def test_math500_answers_verify_against_their_solutions(math500: list[dict[str, str]]) -> None:
    assert sum(judge_math(row["answer"], row["solution"]) == "correct" for row in math500) >= 495


def test_math500_answers_do_not_verify_against_the_next_one(math500: list[dict[str, str]]) -> None:
    neighbours = zip(math500, math500[1:] + math500[:1], strict=True)
    answers = [(row["answer"], after["answer"]) for row, after in neighbours]
    accepted = [pair for pair in answers if judge_math(pair[0], f"\\boxed{{{pair[1]}}}") == "correct"]
    assert set(accepted) == {("5", "x=5"), ("7", "7"), ("3", "3")}


@pytest.mark.parametrize(
    ("gold", "prediction", "verdict"),
    [
        ("5", "it is hard to say", "no_answer"),
        ("5", r"\boxed{\frac{}", "no_answer"),
        ("5", r"\boxed{10^8!}", "too_large"),
        ("10^8!", r"\boxed{5}", "gold_unreadable"),
        ("10^8!", r"\boxed{10^8!}", "correct"),
        ("", r"\boxed{5}", "gold_unreadable"),
        ("3=7", r"\boxed{3}", "gold_unreadable"),
        ("5", r"\boxed{3=7}", "wrong_answer"),
        ("5", r"\boxed{\unknown{5}}", "wrong_answer"),
        (r"\boxed{5}", r"\boxed{5}", "correct"),
    ],
)
def test_what_cannot_be_judged_is_told_apart_from_wrong(gold: str, prediction: str, verdict: str) -> None:
    assert judge_math(gold, prediction) == verdict


_SPELLED = r"""
1 2 0 3.5 x y i e \pi \frac \sqrt ^ _ { } ( ) [ ] , ; = < > \le + - \pm \cdot / ! \% | \{ \} \cup \infty \text{or}
\text{cm} \sin \log \overline \begin{pmatrix} \end{pmatrix} & \\ : \approx \binom \emptyset \ne \in ' cm AB 1,000 $
"""
_PIECES = st.sampled_from(_SPELLED.split())


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=9))
def test_any_text_gets_a_verdict(pieces: list[str]) -> None:
    text = " ".join(pieces)
    assert judge_math(text, f"\\boxed{{{text}}}") in ("correct", "no_answer", "gold_unreadable")
    assert judge_math("5", f"\\boxed{{{text}}}") in ("correct", "wrong_answer", "no_answer", "too_large")
    assert judge_math("5", text) in ("correct", "wrong_answer", "no_answer", "too_large")


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=10_000), st.fractions(max_denominator=10_000))
def test_fractions_are_compared_exactly(ours: Fraction, theirs: Fraction) -> None:
    gold = f"\\frac{{{ours.numerator}}}{{{ours.denominator}}}"
    given = f"\\boxed{{-\\dfrac{{{-3 * theirs.numerator}}}{{{3 * theirs.denominator}}}}}"
    assert (judge_math(gold, given) == "correct") is (ours == theirs)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=4), st.integers(1, 5))
def test_a_polynomial_is_its_expansion_and_nothing_beside_it(roots: list[int], change: int) -> None:
    factored = "".join(f"(x-({root}))" for root in roots)
    coefficients = [1]
    for root in roots:
        shifted, scaled = [*coefficients, 0], [0, *(root * c for c in coefficients)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    expanded = "+".join(f"({c})x^{{{len(roots) - i}}}" for i, c in enumerate(coefficients))
    assert judge_math(factored, f"\\boxed{{{expanded}}}") == "correct"
    assert judge_math(factored, f"\\boxed{{{expanded}+{change}}}") == "wrong_answer"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_only_the_last_box_counts(before: str, after: str) -> None:
    plain = [text.replace("\\", "").replace("{", "").replace("}", "").replace("<", "") for text in (before, after)]
    assert judge_math("5", f"{plain[0]} \\boxed{{6}} so\n\n\\boxed{{5}} {plain[1]}") == "correct"
    assert judge_math("6", f"{plain[0]} \\boxed{{6}} so\n\n\\boxed{{5}} {plain[1]}") == "wrong_answer"
    assert judge_math("6", f"{plain[0]} \\boxed{{6}} so\n\n\\boxed{{5 {plain[1]}") == "no_answer"
