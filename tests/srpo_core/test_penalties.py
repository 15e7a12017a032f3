"""Properties of the penalties: what is code in a solution, what another language, how late lengths count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.rewards.penalties import code_in_math, mixed_language, overlong


@pytest.mark.parametrize(
    "text",
    [
        "We can check it:\n```python\nprint(1+1)\n```\nso it is 2",
        "Let us write\n```cpp\nint main() {}\n```",
        "def f(x):\n    return x\nfor i in range(10):\n    print(i)",
        "import math\nfrom fractions import Fraction\nso it is 3",
        "#include <stdio.h>\nreturn 0;",
    ],
)
def test_a_program_in_a_solution_is_code(text: str) -> None:
    assert code_in_math(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "For x in the set, we return to the equation; while 3 < 4, print it.",
        "```\n2 + 2 = 4\n```",
        "```latex\n\\frac{1}{2}\n```",
        "Let f(x) = 2x. For each i in {1, 2}: f(i) = 2i.",
        "One import statement\nimport math\nis a slip, not a program.",
        "$$\\begin{cases} a & b \\\\ c & d \\end{cases}$$",
    ],
)
def test_mathematics_is_no_code(text: str) -> None:
    assert code_in_math(text) == 0.0


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("What is 2+3?", "<think>We add 所以答案是五 and get 5</think><answer>5</answer>"),
        ("What is 2+3?", "It is five, $所以答案是五$."),
        ("What is 2+3?", "Сначала сложим, then we get 5"),
        ("二加三等于几?", "答案是五, which means that it is five"),
        ("いくつですか", "답은 다섯입니다"),
    ],
)
def test_another_script_than_the_questions_is_mixed(question: str, text: str) -> None:
    assert mixed_language(question, text) == 1.0


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("What is 2+3?", "We add and get 5."),
        ("What is 2+3?", "The angle αβγ and the set ℝ, 𝔽, ℤ: Δx = π"),
        ("What is 2+3?", "As Пуанкаре might say in a long English sentence, " + "it is five and nothing else. " * 40),
        ("二加三等于几?", "<think>设 $AB + CD = EF$, 于是 \\frac{10}{2} 是五</think><answer>五</answer>"),
        ("二加三等于几?", "答案是五, x = 5, n 是 3"),
        ("いくつですか", "答えは五です"),
        ("2+3", "所以答案是五"),
        ("2+3", ""),
        ("Combien?", "C'est très évident: cinq, voilà."),
    ],
)
def test_mathematics_names_and_the_questions_own_script_are_not_mixed(question: str, text: str) -> None:
    assert mixed_language(question, text) == 0.0


@given(st.text(), st.text())
def test_every_text_has_penalties(question: str, text: str) -> None:
    assert code_in_math(text) in (0.0, 1.0)
    assert mixed_language(question, text) in (0.0, 1.0)
    assert mixed_language(text, text) == 0.0


def test_the_overlong_penalty_is_linear_in_the_buffer() -> None:
    lengths = [0, 80, 90, 95, 100]
    assert [overlong(length, 100, 20) for length in lengths] == [0.0, 0.0, 0.5, 0.75, 1.0]


@given(st.integers(1, 10_000), st.data())
def test_the_overlong_penalty_never_falls_with_length_and_ends_at_one(limit: int, data: st.DataObject) -> None:
    buffer = data.draw(st.integers(1, limit))
    shorter, longer = sorted((data.draw(st.integers(0, limit)), data.draw(st.integers(0, limit))))
    assert (
        0 <= overlong(shorter, limit, buffer) <= overlong(longer, limit, buffer) <= overlong(limit, limit, buffer) == 1
    )


@pytest.mark.parametrize("piece", ["\\[", "\\(", "$$ $", "```\n", "\n", "def f()->)", "<think>", "所", " "])
def test_a_long_text_of_one_piece_takes_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    code_in_math(text)
    mixed_language("What is it?", text)
