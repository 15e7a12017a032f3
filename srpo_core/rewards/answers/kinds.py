"""What an answer may be, once it is read."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from srpo_core.rewards.answers.arithmetic import Expr


@dataclass(frozen=True)
class Quantity:
    """A number or a formula. `decimal`: written with a decimal point. `letters`: nothing but this run of letters."""

    value: Expr
    unit: str | None = None
    decimal: bool = False
    letters: str | None = None


@dataclass(frozen=True)
class Words:
    """A text: lower case, one space between words."""

    text: str


@dataclass(frozen=True)
class Choice:
    """A letter of a multiple choice and what it stands for."""

    letter: str
    value: "Answer"


@dataclass(frozen=True)
class BaseNumber:
    """Digits in a base that is written with them."""

    digits: str
    base: int


@dataclass(frozen=True)
class Clock:
    """A time of day; `half` is am, pm or not told. It may also have been a ratio."""

    hours: int
    minutes: int
    half: str | None


@dataclass(frozen=True)
class Ratio:
    """a:b or a:b:c."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Listing:
    """Several answers in no order, in braces or not. `alternatives`: with `or` between them."""

    items: "tuple[Answer, ...]"
    braces: bool = False
    alternatives: bool = False


@dataclass(frozen=True)
class Ordered:
    """A pair, point, vector, or interval: answers in order between brackets."""

    items: "tuple[Answer, ...]"
    opening: str = "("
    closing: str = ")"


@dataclass(frozen=True)
class Table:
    """A matrix."""

    rows: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True)
class Numbers:
    """A set of real numbers (a sympy set), and the variable that was said to be in it."""

    numbers: Any
    variable: str | None = None


@dataclass(frozen=True)
class Named:
    """`name` = value."""

    name: str
    value: "Answer"


@dataclass(frozen=True)
class Assignments:
    """Values of several names, in the order that a tuple of them has."""

    values: "tuple[tuple[str, Answer], ...]"


@dataclass(frozen=True)
class Equation:
    """`left - right`, which is zero."""

    difference: Expr


@dataclass(frozen=True)
class Inequality:
    """An expression that is above zero, or at least zero."""

    difference: Expr
    strict: bool


@dataclass(frozen=True)
class Approximation:
    """A decimal that is told to be near the exact answer, which is told too or not."""

    exact: "Answer | None"
    decimal: "Answer"


Answer: TypeAlias = (
    Quantity | Words | Choice | BaseNumber | Clock | Ratio | Listing | Ordered | Table | Numbers | Named | Assignments
    | Equation | Inequality | Approximation
)  # fmt: skip
