"""What an answer may cost to read. Checked before sympy sees anything, so that no text can ask for a huge number."""

import re

MAX_CHARACTERS = 4_000
MAX_NESTING = 40
MAX_ELEMENTS = 200
MAX_DIGITS = 1_000
"""Digits that may be written in one number."""
MAX_RESULT_BITS = 100_000
"""Bits of a number that a power, factorial or binomial may give: about 30,000 decimal digits."""
MAX_FACTORIAL = 5_000
MAX_TOKENS = 1_500


class TooLargeError(ValueError):
    """The answer is longer, deeper or larger than a verifier reads; the message says which limit."""


class UnreadableError(ValueError):
    """The text is no mathematical answer that can be read; the message says where."""


_DIGITS = re.compile(r"\d+")


def check_text(text: str) -> None:
    """Raise TooLargeError for a text that is too long, too deep, or has too long numbers."""
    if len(text) > MAX_CHARACTERS:
        raise TooLargeError(f"the answer has {len(text)} characters, at most {MAX_CHARACTERS} are read")
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if abs(depth) > MAX_NESTING:
            raise TooLargeError(f"the answer nests deeper than {MAX_NESTING} brackets")
    if any(len(digits.group()) > MAX_DIGITS for digits in _DIGITS.finditer(text)):
        raise TooLargeError(f"the answer has a number of more than {MAX_DIGITS} digits")


def check_power(base_bits: int, exponent: int) -> None:
    """Raise TooLargeError when a number of `base_bits` bits raised to `exponent` has too many bits."""
    if base_bits > 1 and base_bits * abs(exponent) > MAX_RESULT_BITS:
        raise TooLargeError(f"a power has more than {MAX_RESULT_BITS} bits")


def check_factorial(argument: int) -> None:
    """Raise TooLargeError for a factorial that is too large."""
    if abs(argument) > MAX_FACTORIAL:
        raise TooLargeError(f"a factorial is of a number above {MAX_FACTORIAL}")


def check_binomial(n: int, k: int) -> None:
    """Raise TooLargeError for a binomial coefficient that is too large."""
    smaller = min(abs(k), abs(n - k))
    if smaller * max(abs(n).bit_length(), 1) > MAX_RESULT_BITS:
        raise TooLargeError(f"a binomial coefficient has more than {MAX_RESULT_BITS} bits")
