"""Properties of the prompt templates."""

from typing import Any

import pytest

from srpo_core.problems.lab.vocabulary import make_tokenizer
from srpo_core.problems.lab.world import SOURCE as LAB
from srpo_core.problems.problem import Domain, Problem
from srpo_core.problems.templates import Template, TemplateError, render
from srpo_core.rewards.answers.extraction import extract_answer
from srpo_core.rewards.code import extract_code
from srpo_core.rewards.format import read_sections

CHAT = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Characters:
    """A tokenizer whose tokens are characters, so that a prompt's text is seen as it is."""

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> dict[str, list[int]]:
        assert options == {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        return self("".join(f"[{m['role']}] {m['content']}" for m in messages) + "[assistant]")


def asked(question: str, domain: Domain = "math", source: str = "gsm8k") -> Problem:
    return Problem(domain, 1, question, "1", source)


def text_of(problem: Problem, template: Template, chat_template: str | None = None) -> str:
    return "".join(map(chr, render(problem, template, Characters(chat_template))))


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()


def test_plain_is_the_question_behind_bos(tokenizer: Any) -> None:
    ids = render(asked("has 6 gets 1"), "plain", tokenizer)
    assert tokenizer.decode(ids) == "<bos> has 6 gets 1"


def test_think_answer_holds_the_question_and_all_four_tags(tokenizer: Any) -> None:
    ids = render(asked("has 6 gets 1"), "think_answer", tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    text = tokenizer.decode(ids)
    assert "has 6 gets 1" in text
    assert {"<think>", "</think>", "<answer>", "</answer>"} <= set(tokens)


def test_think_answer_leaves_the_opening_tag_to_the_completion(tokenizer: Any) -> None:
    ids = render(asked("has 6 gets 1"), "think_answer", tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids)[-1] != "<think>"


@pytest.mark.parametrize("template", ["plain", "think_answer", "chat"])
def test_braces_in_a_question_are_kept(template: Template) -> None:
    question = "the set {1, {2}} {question} {answer}"
    assert question in text_of(asked(question), template, CHAT)


@pytest.mark.parametrize("template", ["think_answer", "chat"])
def test_the_prompt_asks_for_what_the_domains_verifier_takes(template: Template) -> None:
    math, code = (text_of(asked("?", domain), template, CHAT) for domain in ("math", "code"))
    assert "the final answer alone between <answer>" in math
    assert "python" not in math
    assert "```python" in code
    program = "def f(x):\n    return x"
    obeyed = f"<think>so</think>\n<answer>\n```python\n{program}\n```\n</answer>"
    assert read_sections(obeyed).well_formed
    assert extract_code(read_sections(obeyed).answer or "") == program + "\n"
    assert extract_answer("<think>so</think><answer>42</answer>") == "42"


def test_auto_is_the_chat_template_where_there_is_one_and_else_fits_the_problem() -> None:
    question, lab = asked("What is 1 + 1?"), asked("has 6 gets 1", source=LAB)
    assert text_of(question, "auto", CHAT) == text_of(question, "chat", CHAT)
    assert text_of(question, "auto") == text_of(question, "think_answer")
    assert text_of(lab, "auto") == text_of(lab, "plain") == lab.question


def test_chat_uses_the_tokenizers_template_and_opens_the_assistants_turn(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for message in messages %}has {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}gets{% endif %}"
    )
    tokens = tokenizer.convert_ids_to_tokens(render(asked("loses 6"), "chat", tokenizer))
    assert tokens[:3] == ["has", "loses", "6"]
    assert tokens[-1] == "gets"


def test_chat_without_a_chat_template_is_refused_with_what_to_choose(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match="choose 'think_answer'"):
        render(asked("has 6"), "chat", tokenizer)


def test_an_unknown_template_is_refused_with_what_there_is(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match="plain, think_answer, chat, auto"):
        render(asked("has 6"), "r1", tokenizer)  # type: ignore[arg-type]
