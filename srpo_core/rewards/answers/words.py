"""Answers that are words: names, yes and no, choices, and words that mean something in mathematics."""

from collections.abc import Sequence

import sympy

from srpo_core.rewards.answers.functions import PLAIN_NAMES
from srpo_core.rewards.answers.kinds import Answer, Numbers, Quantity, Words
from srpo_core.rewards.answers.tokens import Token

_SHORT = "no yes odd one two six ten red sun mon tue wed thu fri sat may jun jul all any dne tie he she"
_SHORT_WORDS = frozenset(_SHORT.split())
_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty
"""
_NUMERALS = {word: value for value, word in enumerate(_NUMBERS.split())}
_NOTHING = frozenset(
    {
        "no solution",
        "no solutions",
        "no real solution",
        "no real solutions",
        "empty set",
        "none",
        "no real roots",
        "no roots",
    }
)
_EVERYTHING = frozenset({"all real numbers", "all reals", "real numbers", "reals", "set of all real numbers"})
_INFINITIES = {"infinity": sympy.oo, "positive infinity": sympy.oo, "negative infinity": -sympy.oo}
_SAME = {"does not exist": "dne", "doesn't exist": "dne"}
_FILLERS = frozenset({"a", "an", "the"})
_LABELS = frozenset({"option", "choice", "answer"})


def is_word(token: Token) -> bool:
    """Whether the token is natural language: upright, or a run of letters that is no product and no function."""
    if token.kind == "word":
        return True
    if token.kind != "letters" or token.text in PLAIN_NAMES:
        return False
    return len(token.text) > 3 or (len(token.text) > 1 and token.text.lower() in _SHORT_WORDS)


def without_lead(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """The tokens after a lead-in such as `The answer is`."""
    tokens = tuple(tokens)
    for index, token in enumerate(tokens):
        if token.kind not in ("word", "letters") and token.text != ":":
            break
        if token.text in ("is", "are", "equals", ":") and index and any(is_word(t) for t in tokens[:index]):
            tokens = tokens[index + 1 :]
            return tokens[1:] if tokens and tokens[0].text == ":" else tokens
    while tokens and tokens[0].text.lower() in ("either", "both") and len(tokens) > 1:
        tokens = tokens[1:]
    return tokens


def read_words(tokens: Sequence[Token]) -> Answer | None:  # noqa: PLR0911  (one for each kind of text)
    """The text that the tokens are, or None when they are no text."""
    spoken = [token for token in tokens if token.text not in ("(", ")", "{", "}", ".", "-", "'", '"', "`")]
    if not spoken or not all(token.kind in ("word", "letters") for token in spoken):
        return None
    if not any(is_word(token) for token in spoken):
        return None
    words = [token.text.casefold() for token in spoken]
    while len(words) > 1 and (words[0] in _FILLERS or words[0] in _LABELS):
        words = words[1:]
    text = " ".join(words)
    if text in _NOTHING:
        return Numbers(sympy.S.EmptySet)
    if text in _EVERYTHING:
        return Numbers(sympy.S.Reals)
    if text in _INFINITIES:
        return Quantity(_INFINITIES[text])
    if text in _NUMERALS:
        return Quantity(sympy.Integer(_NUMERALS[text]))
    return Words(_SAME.get(text, text))
