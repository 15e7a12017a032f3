"""How a question becomes the prompt's token ids."""

from typing import Any, Literal, get_args

from srpo_core.problems.lab.world import SOURCE as LAB
from srpo_core.problems.problem import Domain, Problem

Template = Literal["plain", "think_answer", "chat", "auto"]

INSTRUCTION = """\
You solve problems step by step. Write your reasoning between <think> and </think>, then {answer} between <answer> \
and </answer>, and nothing after it.

Problem: {question}

Solution:"""

INSTRUCTION_CHAT = """\
{question}

Reason step by step between <think> and </think>, then write {answer} between <answer> and </answer>."""

ANSWER: dict[Domain, str] = {
    "math": "the final answer alone",
    "code": "the whole program, in one block that begins with ```python and ends with ```,",
}
"""What stands between the answer's tags: what the domain's verifier takes out of a completion."""


class TemplateError(ValueError):
    """The template and the tokenizer do not fit; the message says what to choose instead."""


def render(problem: Problem, template: Template, tokenizer: Any) -> list[int]:
    """Token ids of the prompt.

    `plain` is the question itself (the lab's base knows nothing else), `think_answer` an instruction for base models
    without a chat format, `chat` one user message in the tokenizer's own chat template with the assistant's turn
    opened. `auto` is `chat` where the tokenizer has a chat template; without one `plain` for the lab's problems,
    `think_answer` for all others. Raises TemplateError for an unknown template, and for `chat` if the tokenizer has no
    chat template.
    """
    if template == "auto":
        alone: Template = "plain" if problem.source == LAB else "think_answer"
        return render(problem, "chat" if _speaks(tokenizer) else alone, tokenizer)
    if template == "plain":
        return list(tokenizer(problem.question)["input_ids"])
    filled = {"question": problem.question, "answer": ANSWER[problem.domain]}
    if template == "think_answer":
        return list(tokenizer(INSTRUCTION.format(**filled))["input_ids"])
    if template == "chat":
        if not _speaks(tokenizer):
            raise TemplateError(
                "template 'chat' needs a tokenizer with a chat template, and this one has none: "
                "choose 'think_answer' for a base model, 'plain' for the lab"
            )
        messages = [{"role": "user", "content": INSTRUCTION_CHAT.format(**filled)}]
        encoding = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        return list(encoding["input_ids"])
    raise TemplateError(f"unknown template {template!r}: choose one of {', '.join(get_args(Template))}")


def _speaks(tokenizer: Any) -> bool:
    return getattr(tokenizer, "chat_template", None) is not None
