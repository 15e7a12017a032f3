"""Properties of the lab's world: what it asks, what it holds out."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.problems.lab.world import (
    DOMAINS,
    MAX_NUMBER,
    draw_chain,
    lab_problems,
    parse_question,
    problem_of,
    solution,
    split_of,
)
from srpo_core.problems.problem import Domain

domains = st.sampled_from(DOMAINS)
difficulties = st.integers(1, 8)
EVERY_CELL: dict[tuple[Domain, int], int] = {(domain, n): 40 for domain in DOMAINS for n in range(1, 9)}


@given(domains, difficulties, st.integers())
def test_every_number_of_a_chain_stays_within_the_vocabulary(domain: Domain, n: int, seed: int) -> None:
    chain = draw_chain(domain, n, random.Random(seed))
    numbers = [number for state in (chain.start, *chain.states()) for number in state]
    assert all(0 <= number <= MAX_NUMBER for number in numbers)
    assert len(chain.operations) == n


@given(domains, difficulties, st.integers())
def test_question_parses_back_into_its_chain(domain: Domain, n: int, seed: int) -> None:
    chain = draw_chain(domain, n, random.Random(seed))
    assert parse_question(domain, chain.question()) == chain


@pytest.mark.parametrize(
    ("domain", "question"),
    [
        ("math", "has 6"),
        ("math", "has 6 gets"),
        ("math", "has 6 eats 1"),
        ("math", "has 6 add 1"),
        ("math", "f 2*x+5 add 3"),
        ("code", "has 6 gets 1"),
        ("code", "f 2*x+5 add 3 "),
        ("code", ""),
    ],
)
def test_other_text_is_refused_with_the_text_in_the_message(domain: Domain, question: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(question))):
        parse_question(domain, question)


def test_examples_read_as_documented() -> None:
    math = problem_of(parse_question("math", "has 6 gets 1 loses 3"))
    code = problem_of(parse_question("code", "f 2*x+5 add 3 mul 2"))
    assert solution(math) == "<think>6+1=7-3=4</think><answer>4</answer>"
    assert solution(code) == "<think>+3=2,8*2=4,16</think><answer>4*x+16</answer>"
    assert (math.difficulty, code.difficulty) == (2, 2)


def test_equal_seeds_make_equal_problems_and_other_seeds_do_not() -> None:
    first = lab_problems("train", EVERY_CELL, 5)
    assert first == lab_problems("train", EVERY_CELL, 5)
    assert first != lab_problems("train", EVERY_CELL, 6)


def test_no_problem_comes_twice() -> None:
    problems = lab_problems("heldout", EVERY_CELL, 3)
    assert len({problem.id for problem in problems}) == len(problems) == sum(EVERY_CELL.values())
    assert len({problem.question for problem in problems}) == len(problems)


def test_split_is_by_content_whatever_the_seed() -> None:
    heldout = [problem for seed in range(3) for problem in lab_problems("heldout", EVERY_CELL, seed)]
    train = [problem for seed in range(3) for problem in lab_problems("train", EVERY_CELL, seed)]
    assert all(split_of(problem.question) == "heldout" for problem in heldout)
    assert all(split_of(problem.question) == "train" for problem in train)
    assert not {problem.question for problem in heldout} & {problem.question for problem in train}


def test_one_question_in_four_is_held_out() -> None:
    stream = random.Random(0)
    sides = [split_of(draw_chain("code", 5, stream).question()) for _ in range(4000)]
    assert 0.22 < sides.count("heldout") / len(sides) < 0.28


def test_larger_count_only_appends() -> None:
    few = lab_problems("train", {("code", 4): 10}, 0)
    assert lab_problems("train", {("code", 4): 25}, 0)[:10] == few


def test_a_cell_does_not_depend_on_its_neighbours() -> None:
    alone = lab_problems("train", {("code", 4): 10}, 0)
    assert lab_problems("train", {("math", 2): 7, ("code", 4): 10}, 0)[7:] == alone


def test_every_short_class_has_sixty_heldout_problems() -> None:
    assert len(lab_problems("heldout", {(domain, 1): 60 for domain in DOMAINS}, 1)) == 120


def test_exhausted_cell_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"only about \d+ heldout problems of math with 1 operation"):
        lab_problems("heldout", {("math", 1): 500}, 0)


@pytest.mark.parametrize("difficulty", [0, 9])
def test_unknown_cell_is_refused(difficulty: int) -> None:
    with pytest.raises(ValueError, match="difficulties 1 to 8"):
        lab_problems("train", {("math", difficulty): 1}, 0)
