"""Whether two formulas have the same value, exactly.

Rational numbers are compared as they are. Other constants are subtracted and the difference computed to hundreds of
digits. Formulas with variables are computed at fixed random points to 60 digits and more: two formulas that agree at
all of them are the same (Schwartz and Zippel's argument), and no step of it can take long as an expansion can.
"""

import random
from math import comb
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from srpo_core.rewards.answers.arithmetic import DEGREE, Expr

_ZERO_DIGITS = 500
_SIGNIFICANT = 15
_POINTS = 8
_NEEDED = 3
_MOST_TERMS = 3_000


def same_value(first: Expr, second: Expr) -> bool:
    """Whether two expressions are equal for all real values of their variables for which both are real."""
    if first == second:
        return True
    if first.is_Rational and second.is_Rational:
        return False
    if first.has(sympy.oo, -sympy.oo) or second.has(sympy.oo, -sympy.oo):
        return False
    difference = first - second
    if difference == 0:
        return True
    first, second = _without_unknown_functions(first), _without_unknown_functions(second)
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    if not names:
        return _is_zero(difference)
    return _agree_at_points(first, second, names)


def proportional(first: Expr, second: Expr, *, positive: bool) -> bool:
    """Whether one expression is the other times a constant, which must be positive if asked for."""
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    if not names or first.free_symbols != second.free_symbols:
        return False
    if _cheap_polynomial(first) and _cheap_polynomial(second):
        ones = [sympy.Poly(expression, *names) for expression in (first, second)]
        leading = [poly.LC() for poly in ones]
        if ones[0].is_zero or ones[1].is_zero:
            return False
        if positive and not (leading[0] / leading[1]).is_positive:
            return False
        return same_value(first * leading[1], second * leading[0])
    return same_value(first, second) or (not positive and same_value(first, -second))


def _cheap_polynomial(expression: Expr) -> bool:
    """Whether it is a polynomial that has few terms when it is expanded."""
    variables = len(expression.free_symbols)
    if not expression.is_polynomial(*expression.free_symbols):
        return False
    return comb(min(_degree(expression), 10**6) + variables, variables) <= _MOST_TERMS


def _degree(expression: Expr) -> int:
    """An upper bound of a polynomial's degree, without expanding it."""
    if expression.is_Add:
        return max(_degree(part) for part in expression.args)
    if expression.is_Mul:
        return sum(_degree(part) for part in expression.args)
    if expression.is_Pow:
        return _degree(expression.base) * int(expression.exp) if expression.free_symbols else 0
    return 1 if expression.free_symbols else 0


def _without_unknown_functions(expression: Expr) -> Expr:
    return expression.replace(lambda e: isinstance(e, AppliedUndef), lambda e: sympy.Symbol(str(e), real=True))


def _is_zero(difference: Expr) -> bool:
    if difference.has(DEGREE):
        return False
    """Whether a constant is zero: as far as its digits were computed, none is significant."""
    value = sympy.N(difference, _SIGNIFICANT, maxn=_ZERO_DIGITS)
    return all(part == 0 or (part.is_Float and _has_no_digits(part)) for part in value.as_real_imag())


def _has_no_digits(part: Any) -> bool:
    return bool(part._prec < 10)  # sympy lowers the precision of what it could not compute; it has no other way to tell


def _agree_at_points(first: Expr, second: Expr, names: list[Any]) -> bool:
    numbers = [*first.atoms(sympy.Rational), *second.atoms(sympy.Rational)]
    digits = 60 + sum(max(abs(int(n.p)), int(n.q)).bit_length() for n in numbers) // 3
    imaginary = first.has(sympy.I) or second.has(sympy.I) or any(not name.is_real for name in names)
    agreed = vanished = 0
    for point in _points(names):
        ours, theirs = _value(first, point, digits), _value(second, point, digits)
        if ours is None or theirs is None or not (imaginary or (ours.is_real and theirs.is_real)):
            continue
        size = max(abs(ours), abs(theirs))
        if size < sympy.Float(10) ** (-digits // 2):  # nothing, or too small to tell
            vanished += 1
            continue
        if abs(ours - theirs) > size * sympy.Float(10) ** -(digits - 25):
            return False
        agreed += 1
    if vanished and not agreed:
        return bool(sympy.simplify(first - second) == 0)
    return agreed >= _NEEDED


def _points(names: list[Any]) -> list[dict[Any, Expr]]:
    """Half of them positive, two near zero; last a few natural numbers, for formulas that only these make real."""
    generator = random.Random(20_250_422)
    points = []
    for index in range(_POINTS):
        largest = 9_000 if index % 4 == 0 else 40_000
        signs = (1,) if index < _POINTS // 2 else (1, -1)
        points.append(
            {name: sympy.Rational(generator.choice(signs) * generator.randint(100, largest), 9_973) for name in names}
        )
    return points + [{name: sympy.Integer(generator.randint(2, 30)) for name in names} for _ in range(_NEEDED)]


def _value(expression: Expr, point: dict[Any, Expr], digits: int) -> Expr | None:
    value = expression.evalf(digits, subs=point) if expression.free_symbols else expression.evalf(digits)
    real, imaginary = value.as_real_imag()
    if not (real.is_Float or real.is_Integer) or not (imaginary.is_Float or imaginary.is_Integer):
        return None
    if abs(imaginary) < sympy.Float(10) ** (-digits // 2) * (1 + abs(real)):
        return real
    return value
