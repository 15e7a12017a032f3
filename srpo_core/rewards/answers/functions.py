"""The functions that formulas may apply, by their LaTeX names."""

from collections.abc import Callable
from functools import partial

import sympy

from srpo_core.rewards.answers.arithmetic import DEGREE, Expr, divide, power
from srpo_core.rewards.answers.limits import UnreadableError

FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "arcsec": sympy.asec,
    "arccsc": sympy.acsc, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth,
    "ln": sympy.log, "log": partial(sympy.log), "lg": lambda x: sympy.log(x) / sympy.log(10),
    "exp": sympy.exp, "cis": lambda x: sympy.exp(sympy.I * x), "sgn": sympy.sign,
    "Re": sympy.re, "Im": sympy.im,
}  # fmt: skip
"""Functions of one argument. \\log is that of base 10, see `applied`."""
INVERSES = {
    "sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc",
}  # fmt: skip
ARGUMENT_LISTS: dict[str, Callable[..., Expr]] = {
    "gcd": sympy.gcd_list, "lcm": sympy.lcm_list, "max": lambda v: sympy.Max(*v), "min": lambda v: sympy.Min(*v),
}  # fmt: skip
"""Functions of a list of arguments in parentheses."""
PLAIN_NAMES = {
    name: name
    for name in [*FUNCTIONS, *ARGUMENT_LISTS, "sqrt", "pi", "theta", "alpha", "beta", "gamma", "lambda", "omega"]
} | {"infinity": "infty", "inf": "infty", "oo": "infty", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
"""Names that plain text writes without a backslash, and the commands they stand for."""


def apply_function(name: str, argument: Expr, *, exponent: Expr | None, base: Expr | None) -> Expr:
    """`name` of the argument; degrees become radians; sin^{-1} is the inverse, sin^2 the square.

    \\log without a base is the decimal one.
    """
    argument = argument.subs(DEGREE, sympy.pi / 180)
    if base is not None and name != "log":
        raise UnreadableError(f"\\{name} with a subscript")
    if exponent == -1:
        if name not in INVERSES:
            raise UnreadableError(f"\\{name}^{{-1}}: a reciprocal or an inverse?")
        return FUNCTIONS[INVERSES[name]](argument)
    if name in ("ln", "log", "lg") and argument == 0:
        raise UnreadableError("the logarithm of zero")
    value = FUNCTIONS[name](argument)
    if name == "log":
        base = sympy.Integer(10) if base is None else base
        value = _rational_logarithm(argument, base) or divide(value, sympy.log(base))
    return value if exponent is None else power(value, exponent)


def _rational_logarithm(argument: Expr, base: Expr) -> Expr | None:
    """log_b(b^n) for rational numbers, exactly; None when it is not an integer."""
    if not (argument.is_Rational and base.is_Rational and argument > 0 and base > 0 and base != 1):
        return None
    nearest = sympy.Integer(round(float(sympy.log(argument).evalf(20) / sympy.log(base).evalf(20))))
    return nearest if abs(nearest) < 10_000 and power(base, nearest) == argument else None
