"""Properties of the prompt templates."""

from typing import Any

import pytest

from srpo_core.problems.lab.vocabulary import make_tokenizer
from srpo_core.problems.templates import TemplateError, render


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()


def test_plain_is_the_question_behind_bos(tokenizer: Any) -> None:
    ids = render("has 6 gets 1", "plain", tokenizer)
    assert tokenizer.decode(ids) == "<bos> has 6 gets 1"


def test_think_answer_holds_the_question_and_all_four_tags(tokenizer: Any) -> None:
    ids = render("has 6 gets 1", "think_answer", tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    text = tokenizer.decode(ids)
    assert "has 6 gets 1" in text
    assert {"<think>", "</think>", "<answer>", "</answer>"} <= set(tokens)


def test_think_answer_leaves_the_opening_tag_to_the_completion(tokenizer: Any) -> None:
    ids = render("has 6 gets 1", "think_answer", tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids)[-1] != "<think>"


def test_braces_in_a_question_are_kept() -> None:
    class Characters:
        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [ord(character) for character in text]}

    ids = render("the set {1, {2}} {question}", "think_answer", Characters())
    assert "the set {1, {2}} {question}" in "".join(map(chr, ids))


def test_chat_uses_the_tokenizers_template_and_opens_the_assistants_turn(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for message in messages %}has {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}gets{% endif %}"
    )
    tokens = tokenizer.convert_ids_to_tokens(render("loses 6", "chat", tokenizer))
    assert tokens[:3] == ["has", "loses", "6"]
    assert tokens[-1] == "gets"


def test_chat_without_a_chat_template_is_refused_with_what_to_choose(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match="choose 'think_answer'"):
        render("has 6", "chat", tokenizer)


def test_an_unknown_template_is_refused_with_what_there_is(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match="plain, think_answer, chat"):
        render("has 6", "r1", tokenizer)  # type: ignore[arg-type]
