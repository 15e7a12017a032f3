"""Integrals, sums, products, limits and derivatives: read by math-verify's parser, computed by sympy.

They occur in gold answers only. In a prediction they describe a computation that was asked for and not done, so they
count only where the gold answer has one too.
"""

import logging
import re

import sympy
from math_verify import LatexExtractionConfig, parse

from srpo_core.rewards.answers.arithmetic import symbol
from srpo_core.rewards.answers.kinds import Quantity
from srpo_core.rewards.answers.limits import UnreadableError

_OPERATORS = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![A-Za-z])|\\frac\{(d|\\partial)\}\{(d|\\partial) ?[a-z]\}")
_READ_WRONGLY = re.compile(r"\.\d|_\d+\{|\\%|\\circ|\\overline|\\text")
"""What math-verify's parser rounds, skips or takes for something else."""

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that the limit on time is ours to set; it is set


def holds_calculus(text: str) -> bool:
    """Whether an operator of calculus stands in a normalised text."""
    return _OPERATORS.search(text) is not None


def read_calculus(text: str) -> Quantity:
    """The value of such a formula. Raises UnreadableError when it has none in closed form."""
    if _READ_WRONGLY.search(text):
        raise UnreadableError("a formula of calculus with notation that its parser does not read")
    found = parse(
        f"${text}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,  # the worker is killed from outside; a signal could be caught here
    )
    if len(found) != 1 or not isinstance(found[0], sympy.Expr):
        raise UnreadableError("a formula of calculus that is not understood")
    value = found[0].doit()
    if value.has(sympy.Float, sympy.Integral, sympy.Limit, sympy.Derivative, sympy.Sum, sympy.Product, sympy.nan):
        raise UnreadableError("a formula of calculus without a value")
    names = {name: sympy.I if str(name) == "i" else symbol(str(name)) for name in value.free_symbols}
    return Quantity(value.subs(names))
