"""One formula, from tokens to sympy, exactly: decimals become fractions, and nothing is rounded or guessed.

A recursive descent over the part of LaTeX that answers are written in. What it does not know raises UnreadableError,
so that no sign is ever skipped. Ambiguous notation is read as docs/verifiers.md tells.
"""

from collections.abc import Sequence

import sympy

from srpo_core.rewards.answers.arithmetic import (
    DEGREE,
    Expr,
    binomial,
    divide,
    factorial,
    modulo,
    number,
    power,
    symbol,
)
from srpo_core.rewards.answers.functions import ARGUMENT_LISTS, FUNCTIONS, PLAIN_NAMES, apply_function
from srpo_core.rewards.answers.limits import UnreadableError
from srpo_core.rewards.answers.tokens import Token

_GREEK_LETTERS = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell uniti unitj unitk
"""
_GREEK = frozenset(_GREEK_LETTERS.split())
_STRUCTURES = frozenset(
    {"frac", "sqrt", "binom", "pi", "infty", "imath", "overline", "bar", "vec", "hat", "lfloor", "lceil"}
)
_COMMANDS = frozenset({*FUNCTIONS, *ARGUMENT_LISTS, *_GREEK, *_STRUCTURES})
_SIGNS_THAT_END = frozenset(")],;+-/^_=<>!:'&}")
_LONGEST_PRODUCT = 3
"""Letters in a run that is read as a product; longer runs are words."""


def read_expression(tokens: Sequence[Token]) -> Expr:
    """The formula that all the tokens make. Raises UnreadableError and TooLargeError."""
    reader = _Reader(list(tokens))
    value = reader.sum()
    if reader.tokens[reader.at :]:
        raise UnreadableError(f"{reader.tokens[reader.at].text!r} is out of place")
    if value.has(sympy.zoo, sympy.nan):
        raise UnreadableError("the value is not defined")
    return value


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].text if index < len(self.tokens) else ""

    def take(self) -> Token:
        if self.at >= len(self.tokens):
            raise UnreadableError("the formula ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, *texts: str) -> None:
        token = self.take()
        if token.text not in texts:
            raise UnreadableError(f"{token.text!r} instead of {texts[0]!r}")

    def put_back(self, *tokens: Token) -> None:
        """Replace the token just taken by these."""
        self.at -= 1
        self.tokens[self.at : self.at + 1] = tokens

    def sum(self) -> Expr:
        value = self.term()
        while self.peek() in ("+", "-"):
            sign = self.take().text
            term = self.term()
            value = value + term if sign == "+" else value - term
        return value

    def term(self) -> Expr:
        if self.peek() in ("+", "-"):
            sign = self.take().text
            term = self.term()
            return term if sign == "+" else -term
        value = self.factor()
        while True:
            if self.peek() == "\\cdot":
                self.take()
                value = value * self.signed_factor()
            elif self.peek() == "/":
                self.take()
                value = divide(value, self.signed_factor())
            elif self.peek() in ("\\bmod", "\\mod"):
                self.take()
                value = modulo(value, self.signed_factor())
            elif self.starts_factor():
                value = value * self.factor()
            else:
                return value

    def signed_factor(self) -> Expr:
        if self.peek() in ("+", "-"):
            return self.factor() if self.take().text == "+" else -self.factor()
        return self.factor()

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign. Two numbers side by side are never a product."""
        text = self.peek()
        if not text or text in _SIGNS_THAT_END or (text == "|" and self.bars):
            return False
        if self.tokens[self.at].kind == "number":
            if self.tokens[self.at - 1].kind == "number":
                raise UnreadableError("two numbers side by side")
            return self.peek(-1) in (")", "}", "|", "]")
        return self.tokens[self.at].kind != "command" or text[1:] in _COMMANDS

    def factor(self) -> Expr:
        value = self.postfix(self.atom())
        if self.peek() == "^":
            self.take()
            if self.peek() == "\\circ":
                self.take()
                return value * DEGREE
            value = power(value, self.exponent())
            value = self.postfix(value)
        return value

    def postfix(self, value: Expr) -> Expr:
        while self.peek() in ("!", "\\%"):
            if self.take().text == "\\%":
                value = value / 100
            elif self.peek() == "!":
                self.take()
                value = factorial(value, double=True)
            else:
                value = factorial(value)
        return value

    def exponent(self) -> Expr:
        if self.peek() in ("+", "-"):
            return self.exponent() if self.take().text == "+" else -self.exponent()
        token = self.take()
        if token.kind == "letters" and len(token.text) > 1:  # x^ab is x^a b
            self.put_back(Token("letters", token.text[0]), Token("letters", token.text[1:]))
            token = self.take()
        self.at -= 1
        value = number(self.take().text) if token.kind == "number" else self.atom()
        value = self.postfix(value) if self.peek() == "!" else value
        if self.peek() == "^":  # 2^3^2 is 2^(3^2)
            self.take()
            value = power(value, self.exponent())
        return value

    def group(self, closing: str) -> Expr:
        bars, self.bars = self.bars, 0
        value = self.sum()
        self.expect(closing)
        self.bars = bars
        return value

    def atom(self) -> Expr:
        token = self.take()
        if token.kind == "number":
            return self.number_atom(token)
        if token.kind in ("letters", "word"):
            return self.letters_atom(token)
        if token.text in ("(", "{"):
            return self.group(")" if token.text == "(" else "}")
        if token.text == "[":
            return self.group("]")
        if token.text == "|":
            self.bars += 1
            value = self.sum()
            self.expect("|")
            self.bars -= 1
            return sympy.Abs(value)
        if token.kind == "command":
            return self.command_atom(token.text[1:])
        raise UnreadableError(f"{token.text!r} is out of place")

    def number_atom(self, token: Token) -> Expr:
        """A number, or a mixed one: 1\\frac12 and 1 1/2."""
        value = number(token.text)
        if self.peek() == "_":
            raise UnreadableError("a number in another base inside a formula")
        if not token.text.isdigit():
            return value
        if self.peek() == "\\frac":
            return self.mixed_number(value)
        if [t.kind for t in self.tokens[self.at : self.at + 3]] == ["number", "sign", "number"] and self.peek(1) == "/":
            top, _, bottom = (self.take(), self.take(), self.take())
            if not (top.text.isdigit() and bottom.text.isdigit() and 0 < int(top.text) < int(bottom.text)):
                raise UnreadableError("two numbers side by side")
            return value + sympy.Rational(int(top.text), int(bottom.text))
        return value

    def mixed_number(self, whole: Expr) -> Expr:
        self.take()
        start = self.at
        top, bottom = self.argument(), self.argument()
        written = [t for t in self.tokens[start : self.at] if t.text not in "{}"]
        if len(written) != 2 or not all(t.text.isdigit() for t in written):
            return whole * divide(top, bottom)
        if not top < bottom:
            raise UnreadableError("a whole number beside an improper fraction: a sum or a product?")
        return whole + divide(top, bottom)

    def letters_atom(self, token: Token) -> Expr:
        text = token.text
        if text in PLAIN_NAMES:
            self.put_back(Token("command", "\\" + PLAIN_NAMES[text], token.spaced))
            return self.atom()
        if len(text) > 1 and text.isupper():
            return symbol(text)  # a label: its letters have an order
        if token.kind == "word" and len(text) > 1:
            raise UnreadableError(f"the word {text!r} in a formula")
        if len(text) > _LONGEST_PRODUCT:
            raise UnreadableError(f"the word {text!r} in a formula")
        if len(text) > 1:
            self.put_back(Token("letters", text[0], token.spaced), Token("letters", text[1:]))
            self.take()
        return self.named(text[0])

    def named(self, name: str) -> Expr:
        """A constant, a variable with its subscript, or a function of unknown definition."""
        if self.peek() == "_":
            return symbol(f"{name}_{self.subscript()}")
        if self.peek() == "'":
            while self.peek() == "'":
                self.take()
                name += "'"
        elif name == "i":
            return sympy.I
        elif name == "e":
            return sympy.E
        if name[0] in "fgh" and self.peek() == "(":
            self.take()
            return sympy.Function(name)(self.group(")"))
        return symbol(name)

    def subscript(self) -> str:
        self.take()
        if self.peek() != "{":
            token = self.take()
            if token.kind in ("letters", "number") and len(token.text) > 1:
                self.put_back(Token(token.kind, token.text[0]), Token(token.kind, token.text[1:]))
                token = self.take()
            return token.text
        self.take()
        parts: list[str] = []
        while self.peek() not in ("}", ""):
            token = self.take()
            if token.text in ("{", "^"):
                raise UnreadableError("a nested subscript")
            parts.append(token.text)
        self.expect("}")
        return "".join(parts)

    def argument(self) -> Expr:
        """The next argument as TeX takes it: a group, one digit, one letter or one command."""
        if self.peek() == "{":
            self.take()
            return self.group("}")
        token = self.take()
        if token.kind in ("number", "letters") and len(token.text) > 1 and token.text not in PLAIN_NAMES:
            if "." in token.text:
                raise UnreadableError("a decimal as an argument without braces")
            self.put_back(Token(token.kind, token.text[0]), Token(token.kind, token.text[1:]))
            token = self.take()
        if token.kind == "number":
            return number(token.text)
        self.at -= 1
        return self.atom()

    def command_atom(self, name: str) -> Expr:  # noqa: PLR0911  (one for each command)
        if name == "frac":
            top = self.argument()
            return divide(top, self.argument())
        if name == "sqrt":
            return self.root()
        if name == "binom":
            top = self.argument()
            return binomial(top, self.argument())
        if name in ("overline", "bar", "vec", "hat"):
            return self.decorated(name)
        if name in ("lfloor", "lceil"):
            value = self.group("\\rfloor" if name == "lfloor" else "\\rceil")
            return sympy.floor(value) if name == "lfloor" else sympy.ceiling(value)
        if name in ARGUMENT_LISTS:
            return self.applied_to_list(name)
        if name in FUNCTIONS:
            return self.applied(name)
        if name in _GREEK:
            return symbol(f"{name}_{self.subscript()}") if self.peek() == "_" else symbol(name)
        constants = {"pi": sympy.pi, "infty": sympy.oo, "imath": sympy.I}
        if name not in constants:
            raise UnreadableError(f"\\{name} is not known")
        return constants[name]

    def root(self) -> Expr:
        """\\sqrt[n]{…}; an odd root of a negative number is the real one."""
        degree: Expr = sympy.Integer(2)
        if self.peek() == "[":
            self.take()
            degree = self.group("]")
        if self.peek() == "(":
            self.take()
            radicand = self.group(")")
        elif self.tokens[self.at : self.at + 1] and self.tokens[self.at].kind == "number" and len(self.peek()) > 1:
            raise UnreadableError("a root of several digits without braces")
        else:
            radicand = self.argument()
        if degree == 0:
            raise UnreadableError("a zeroth root")
        if degree.is_Integer and degree % 2 and (radicand.is_negative or radicand.free_symbols):
            return sympy.real_root(radicand, degree) if radicand.is_number else _odd_root(radicand, degree)
        return power(radicand, 1 / degree)

    def decorated(self, name: str) -> Expr:
        """\\overline{AB} is the label AB, \\overline of a number its conjugate, a decorated letter one of its own."""
        start = self.at
        value = self.argument()
        if value.is_Symbol:
            labelled = value.name.isupper() and len(value.name) > 1
            return value if labelled else symbol(f"{name}_{value.name}")
        if name not in ("overline", "bar") or any(t.kind == "letters" and t.text != "i" for t in self.tokens[start:]):
            raise UnreadableError(f"\\{name} over a formula")
        if not value.has(sympy.I):
            raise UnreadableError(f"\\{name} over a number")
        return sympy.conjugate(value)

    def applied(self, name: str) -> Expr:
        exponent = base = None
        while self.peek() in ("^", "_"):
            if self.take().text == "^":
                exponent = self.exponent()
            else:
                base = self.argument()
        if self.peek() in ("(", "{"):
            argument = self.group(")" if self.take().text == "(" else "}")
        else:
            argument = self.signed_factor()
            while self.starts_factor() and not self.starts_function():
                argument = argument * self.factor()
        return apply_function(name, argument, exponent=exponent, base=base)

    def starts_function(self) -> bool:
        text = self.peek().removeprefix("\\")
        return PLAIN_NAMES.get(text, text) in FUNCTIONS

    def applied_to_list(self, name: str) -> Expr:
        opening = self.take().text
        if opening not in ("(", "\\{"):
            raise UnreadableError(f"\\{name} without parentheses")
        values = [self.sum()]
        while self.peek() == ",":
            self.take()
            values.append(self.sum())
        self.expect(")" if opening == "(" else "\\}")
        if name in ("gcd", "lcm") and not all(value.is_Integer for value in values):
            raise UnreadableError(f"\\{name} of something that is no integer")
        return ARGUMENT_LISTS[name](values)


def _odd_root(radicand: Expr, degree: Expr) -> Expr:
    return sympy.sign(radicand) * sympy.Abs(radicand) ** (1 / degree)
