"""Exact arithmetic on sympy numbers that refuses results that are too long, before they are computed."""

from typing import Any

import sympy

from srpo_core.rewards.answers.limits import (
    TooLargeError,
    UnreadableError,
    check_binomial,
    check_factorial,
    check_power,
)

Expr = Any
"""A sympy expression; sympy has no types."""
DEGREE = sympy.Symbol("degree", positive=True)
"""One degree, where it is not the argument of a function."""
_COMPLEX_NAMES = frozenset({"z", "w", "omega", "zeta"})


def symbol(name: str) -> Expr:
    """A variable: real, but for z, w, omega and zeta."""
    return sympy.Symbol(name) if name.partition("_")[0] in _COMPLEX_NAMES else sympy.Symbol(name, real=True)


def number(text: str) -> Expr:
    """A decimal as the fraction that it is."""
    mantissa, _, exponent = text.lower().partition("e")
    value = sympy.Rational(mantissa)
    if exponent:
        check_power(4, int(exponent))
        value *= sympy.Integer(10) ** int(exponent)
    return value


def power(base: Expr, exponent: Expr) -> Expr:
    """`base**exponent`. Raises TooLargeError when a number would be too long, UnreadableError for 0 to a negative."""
    if base == 0 and (exponent.is_negative or exponent == 0):
        raise UnreadableError("zero to a power that is not positive")
    if exponent.is_Rational:
        numbers = [base] if base.is_Rational else [atom for atom in base.atoms(sympy.Rational) if base.is_number]
        check_power(max((_bits(n) for n in numbers), default=1), int(abs(exponent)) + 1)
        if _bits(exponent) > 64:
            raise TooLargeError("an exponent has more than 64 bits")
    return base**exponent


def _bits(rational: Expr) -> int:
    return max(abs(int(rational.p)), int(rational.q)).bit_length()


def divide(top: Expr, bottom: Expr) -> Expr:
    """`top / bottom`. Raises UnreadableError for a division by zero."""
    if bottom == 0:
        raise UnreadableError("a division by zero")
    return top / bottom


def factorial(value: Expr, *, double: bool = False) -> Expr:
    """`value!`, or `value!!`. Raises TooLargeError for a number whose factorial is too long."""
    if value.is_number:
        if not value.is_Integer or value.is_negative:
            raise UnreadableError("the factorial of something that is no natural number")
        check_factorial(int(value))
    return sympy.factorial2(value) if double else sympy.factorial(value)


def binomial(top: Expr, bottom: Expr) -> Expr:
    """`top` choose `bottom`. Raises TooLargeError when it would be too long."""
    for value in (top, bottom):
        if value.is_Rational and _bits(value) > 64:
            raise TooLargeError("a binomial coefficient of numbers above 64 bits")
    if bottom.is_Integer:
        check_binomial(int(top) if top.is_Integer else 2**16, int(bottom))
    return sympy.binomial(top, bottom)


def modulo(value: Expr, modulus: Expr) -> Expr:
    """The remainder of two integers."""
    if not (value.is_Integer and modulus.is_Integer and modulus > 0):
        raise UnreadableError("a remainder of something that is no integer")
    return value % modulus
