"""Properties of the format part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.rewards.format import read_sections

inner = st.text().filter(lambda text: "<" not in text)


@given(inner, inner)
def test_both_tags_once_and_nothing_outside_is_well_formed(thought: str, answer: str) -> None:
    sections = read_sections(f"<think>{thought}</think>\n<answer>{answer}</answer>")
    assert sections.well_formed
    assert (sections.thought, sections.answer) == (thought.strip(), answer.strip())


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "4",
        "<answer>4</answer>",
        "<think>t</think>",
        "<think>t</think><answer>4",
        "t</think><answer>4</answer>",
        "<answer>4</answer><think>t</think>",
        "<think>t</think><answer>4</answer> and more",
        "first <think>t</think><answer>4</answer>",
        "<think>t</think> between <answer>4</answer>",
        "<think>t</think><answer>4</answer><answer>5</answer>",
        "<think>t</think><think>u</think><answer>4</answer>",
        "<think>t<think></think><answer>4</answer>",
        "<think>t<answer>4</answer></think><answer>4</answer>",
        "<THINK>t</THINK><ANSWER>4</ANSWER>",
    ],
)
def test_anything_else_is_not_well_formed(completion: str) -> None:
    assert not read_sections(completion).well_formed


def test_an_answer_that_stands_once_is_read_though_the_format_is_broken() -> None:
    sections = read_sections("well, <answer> 4 </answer> it is")
    assert (sections.answer, sections.well_formed) == ("4", False)


@pytest.mark.parametrize("completion", ["<answer>4</answer><answer>5</answer>", "</answer>4<answer>", "<answer>4", "4"])
def test_an_ambiguous_answer_is_none(completion: str) -> None:
    assert read_sections(completion).answer is None


@given(st.text(alphabet="<>/thinkaswer 4"))
def test_every_text_is_read(completion: str) -> None:
    read_sections(completion)
