"""What is trained on and what is held out."""

from typing import Literal

from srpo_core.problems.templates import Template
from srpo_core.settings.section import PositiveInt, Section


class ProblemSettings(Section):
    """The problems: what is trained on and what is held out."""

    source: Literal["lab"] = "lab"
    """The data set. `lab` is the procedural world of docs/lab.md."""
    train: PositiveInt = 80
    """Training problems per difficulty and domain."""
    heldout: PositiveInt = 60
    """Held-out problems per difficulty and domain. None of them is ever trained on, by content."""
    template: Template = "plain"
    """How a question becomes a prompt: as it is, with instructions for the tags, by the chat template, or `auto`: by
    the chat template where the tokenizer has one. See docs/models.md."""
