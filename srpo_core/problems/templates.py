"""How a question becomes the prompt's token ids."""

from typing import Any, Literal, get_args

Template = Literal["plain", "think_answer", "chat"]

INSTRUCTION = """\
You solve problems step by step. Write your reasoning between <think> and </think>, then the final answer alone \
between <answer> and </answer>, and nothing after it.

Problem: {question}

Solution:"""

INSTRUCTION_CHAT = """\
{question}

Reason step by step between <think> and </think>, then write the final answer alone between <answer> and </answer>."""


class TemplateError(ValueError):
    """The template and the tokenizer do not fit; the message says what to choose instead."""


def render(question: str, template: Template, tokenizer: Any) -> list[int]:
    """Token ids of the prompt.

    `plain` is the question itself (the lab's base knows nothing else), `think_answer` an instruction for base models
    without a chat format, `chat` one user message in the tokenizer's own chat template with the assistant's turn
    opened. Raises TemplateError for an unknown template, and for `chat` if the tokenizer has no chat template.
    """
    if template == "plain":
        return list(tokenizer(question)["input_ids"])
    if template == "think_answer":
        return list(tokenizer(INSTRUCTION.format(question=question))["input_ids"])
    if template == "chat":
        if getattr(tokenizer, "chat_template", None) is None:
            raise TemplateError(
                "template 'chat' needs a tokenizer with a chat template, and this one has none: "
                "choose 'think_answer' for a base model, 'plain' for the lab"
            )
        messages = [{"role": "user", "content": INSTRUCTION_CHAT.format(question=question)}]
        encoding = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        return list(encoding["input_ids"])
    raise TemplateError(f"unknown template {template!r}: choose one of {', '.join(get_args(Template))}")
