"""What is fit for training: each rule drops what it names and leaves what only looks like it."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_runs import NEEDS_LEVEL_A

from srpo_core.problems.curation import Curated, cleaned, curate, text_fault
from srpo_core.problems.examples import Example, fenced
from srpo_core.problems.overlap import COMMON, find_overlaps, tokens_of
from srpo_core.problems.problem import Domain, Problem
from srpo_core.rewards.code import CodeTests
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.settings.rewards import VerifierSettings

TESTS = CodeTests(asserts=("assert f(2) == 4",)).to_json()


def math(question: str, answer: str = "4", reference: str | None = None) -> Example:
    return Example(Problem("math", 0, question, answer, "mine"), reference or f"\\boxed{{{answer}}}")


def code(question: str, program: str | None = None, tests: str = TESTS) -> Example:
    return Example(Problem("code", 0, question, tests, "mine"), program and fenced(program))


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with Verifiers(VerifierSettings(workers=1), check_thought=True) as made:
        yield made


@pytest.mark.parametrize(
    ("domain", "question", "reason"),
    [
        ("math", "See https://example.org for the rest.", "url"),
        ("math", "How long is <b>AB</b>?", "html"),
        ("math", 'Add <span class="x">2</span> and 3.', "html"),
        ("math", "If a<b and b>a, which is larger?", None),
        ("math", "Find all x with 1<p and p>2.", None),
        ("math", "Find x. [asy] draw((0,0)--(1,1)); [/asy]", "picture"),
        ("math", "In the diagram, AB is 3. Find BC.", "picture"),
        ("math", "The sheet is folded as shown. How long is the fold?", "picture"),
        ("math", "The graph of $y=f(x)$ is shown. Find f(2).", "picture"),
        ("math", "The figure below has an area of 3. Find x.", "picture"),
        ("math", "She hangs 4 pictures in the hall. How many nails does she need?", None),
        ("math", "A movie is shown 4 times a day. How often in a week?", None),
        ("math", "How many figures does 2^{10} have?", None),
        ("math", "Determine if the graph of the equation below is a parabola. $y=x^2$", None),
        ("math", "(a) Find x. (b) Find y.", "multi-part"),
        ("math", "1. What is 2+2? 2. What is 3+3?", "multi-part"),
        ("math", "Find the n such that (a) n is odd, and (b) n is prime.", None),
        ("math", "Which is it? (a) 3 (b) 4 (c) 5", None),
        ("math", "Let f satisfy (i) f(0)=0 and (ii) f(1)=1. Find f(2).", None),
        ("math", "Prove that there are infinitely many primes.", "proof"),
        ("math", "Let n be odd. Show that n^2 is odd.", "proof"),
        ("math", "Records show that he won 3 of 4. How many did he lose?", None),
        ("math", "She watched a show that was 30 minutes long. How many are two?", None),
        ("code", "Read the numbers from input.txt.", "files"),
        ("code", "Read each line of the file and count words.", "files"),
        ("code", "Profile the array: read n numbers and print them.", None),
        ("code", "Download the page and count links.", "network"),
        ("code", "Use numpy to add two arrays.", "environment"),
        ("code", "Colour it so.\n\n<image>\n\nInput\n\nn", "picture"),
        ("code", "Colour it.\n\nInput\n\nn\n\nNote\n\nThe first example: <image>", None),
        ("code", "Is it a URL?\n\n```python\nassert f('http://x.org') == 1\n```", None),
    ],
)
def test_a_text_is_dropped_for_what_it_asks_not_for_its_words(
    domain: Domain, question: str, reason: str | None
) -> None:
    fault = text_fault(math(question) if domain == "math" else code(question))
    assert (fault and fault.reason) == reason


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import math\nfrom collections import Counter", None),
        ("import os", "files"),
        ("def f(x):\n    from urllib.request import urlopen", "network"),
        ("import numpy.linalg as la", "environment"),
        ("import subprocess", "environment"),
        ("def f(x:", None),
    ],
)
def test_what_a_solution_imports_tells_what_it_needs(program: str, reason: str | None) -> None:
    fault = text_fault(code("Do it.", program))
    assert (fault and fault.reason) == reason


def test_links_lose_their_address_and_escapes_are_read() -> None:
    linked = math("Take the [bitwise XOR](https://en.wikipedia.org/wiki/Bitwise_(logic)#XOR) if a &lt; b.")
    assert cleaned(linked).problem.question == "Take the bitwise XOR if a < b."
    assert text_fault(cleaned(math("See [link](https://x.org/a.gif)."))) is not None


def reasons(curated: Curated) -> list[tuple[str, str]]:
    return [(each.problem.question, each.reason) for each in curated.dropped]


def test_a_question_asked_twice_is_kept_once_and_one_with_two_answers_never(verifiers: Verifiers) -> None:
    examples = [
        math("What is $\\dfrac12$ of 8?"),
        math("what is  \\frac{1}{2} of 8", "4.0"),
        math("What is $x$?", "1"),
        math("What is x ?", "2"),
        math("What is $88 \\div (4 \\div 2)$?", "44"),
        math("What is $88 \\div 4 \\div 2$?", "11"),
    ]
    curated = curate(examples, [], verifiers)
    assert reasons(curated) == [
        ("what is  \\frac{1}{2} of 8", "duplicate"),
        ("What is $x$?", "contradiction"),
        ("What is x ?", "contradiction"),
    ]
    assert [example.problem.answer for example in curated.kept] == ["4", "44", "11"]


def test_answers_that_cannot_be_judged_and_wrong_solutions_are_dropped(verifiers: Verifiers) -> None:
    examples = [
        math("Its date?", r"\text{October 30}"),
        math("One and one?", "2", r"so it is \boxed{3}"),
        math("Two and two?"),
    ]
    curated = curate(examples, [], verifiers)
    assert reasons(curated) == [
        ("Its date?", "answer cannot be judged"),
        ("One and one?", "solution is judged wrong"),
    ]


@NEEDS_LEVEL_A
def test_code_is_proved_by_its_solution_where_there_is_one(verifiers: Verifiers) -> None:
    examples = [
        code("Double it.", "def f(x): return 2 * x"),
        code("Treble it.", "def f(x): return 3 * x"),
        code("Guess it.", tests=CodeTests(inputs=("1",), outputs=("2",)).to_json()),
    ]
    curated = curate(examples, [], verifiers)
    assert reasons(curated) == [("Treble it.", "solution is judged wrong")]
    assert curated.unproved == 1


WORDS = [f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(400)]


def test_a_question_near_a_held_out_one_is_dropped_and_its_boilerplate_is_not(verifiers: Verifiers) -> None:
    heldout = Problem("math", 0, " ".join(WORDS[:40]), "4", "exam")
    near, half = math(" ".join(WORDS[:30])), math(" ".join([*WORDS[:20], *WORDS[60:100]]))
    curated = curate([near, half, math("What is 2+2?")], [heldout], verifiers)
    assert [(each.problem, each.reason, each.detail) for each in curated.dropped] == [
        (near.problem, "held out", f"{heldout.id} (exam)")
    ]
    note = " ".join(WORDS[200:220])
    noted = [f"{' '.join(WORDS[10 * n : 10 * n + 5])} {note}" for n in range(COMMON)]
    assert find_overlaps(noted[1:], noted[:1]) == [None] * (COMMON - 1)
    assert find_overlaps(noted[2:], noted[:1]) == [0] * (COMMON - 2)


@given(st.lists(st.sampled_from(["x", "12", "+", "sum", "("]), min_size=1, max_size=30), st.data())
def test_spaces_case_and_dollar_signs_make_no_other_question(tokens: list[str], data: st.DataObject) -> None:
    plain = " ".join(tokens)
    gaps = data.draw(
        st.lists(st.sampled_from([" ", "  ", "\n", " $", "$ ", ", "]), min_size=len(tokens), max_size=len(tokens))
    )
    typeset = "".join(token.upper() + gap for token, gap in zip(tokens, gaps, strict=True))
    assert tokens_of(typeset) == tokens_of(plain)
    assert find_overlaps([typeset], ["another question", plain]) == [1]


@given(st.text(max_size=80))
def test_any_text_has_tokens_and_is_found_again(text: str) -> None:
    assert find_overlaps([text], [text]) == [0]
    assert tokens_of(text) == tokens_of(text)
