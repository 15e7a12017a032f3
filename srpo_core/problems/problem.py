"""A problem: a question whose answer a program can judge."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Domain = Literal["math", "code"]


@dataclass(frozen=True)
class Problem:
    """One question with its verifiable answer.

    `difficulty` is a class of the source's own (the lab: number of operations); larger is harder.
    `answer` is what the domain's verifier judges against. `source` names the data set.
    """

    domain: Domain
    difficulty: int
    question: str
    answer: str
    source: str

    @cached_property
    def id(self) -> str:
        """16 hex digits of a hash over domain, question and answer: equal content, equal id."""
        content = "\0".join((self.domain, self.question, self.answer))
        return hashlib.sha256(content.encode()).hexdigest()[:16]
