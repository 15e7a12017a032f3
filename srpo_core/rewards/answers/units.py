"""Units, currencies and the words that change a number's value."""

from collections.abc import Sequence
from dataclasses import dataclass

import sympy

from srpo_core.rewards.answers.arithmetic import Expr
from srpo_core.rewards.answers.functions import PLAIN_NAMES
from srpo_core.rewards.answers.limits import UnreadableError
from srpo_core.rewards.answers.tokens import Token, enclosed

_SPELLINGS = """
mm: millimeter millimetre | cm: centimeter centimetre | dm: decimeter decimetre | m: meter metre
km: kilometer kilometre | in: inch inches | ft: foot feet | yd: yard | mi: mile
g: gram gramme | kg: kilogram | mg: milligram | lb: pound lbs | oz: ounce
l: liter litre | ml: milliliter millilitre mL | gal: gallon | s: sec second | min: minute | h: hr hour | ms: millisecond
day: days | week: wk | month: months | year: yr | mph: | kph: kmh | degree: deg | radian: rad
dollar: usd buck | cent: ¢ | euro: eur | yen: | am: a.m | pm: p.m | celsius: | fahrenheit:
hz: hertz | n: newton | j: joule | w: watt | v: volt | pa: pascal | unit: | sq: square | cu: cubic
"""
_CANONICAL = {
    spelling: canonical.strip()
    for canonical, _, spellings in (
        entry.partition(":") for line in _SPELLINGS.strip().splitlines() for entry in line.split("|")
    )
    for spelling in [canonical.strip(), *spellings.lower().split()]
}
_CANONICAL = {spelling + "s": unit for spelling, unit in _CANONICAL.items() if len(spelling) > 1} | _CANONICAL
_MULTIPLIERS = {
    "percent": sympy.Rational(1, 100), "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "dozen": 12,
}  # fmt: skip
_COMPOUND = {
    "mi/h": "mph", "km/h": "kph", "degree celsiu": "celsius", "degree celsius": "celsius", "degree c": "celsius",
    "degree fahrenheit": "fahrenheit", "degree f": "fahrenheit",
}  # fmt: skip
_CURRENCIES = {"\\$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee", "¢": "cent"}
_OTHER = """
not no or and but maybe perhaps possibly probably except unless if when where otherwise about approximately approx
around roughly nearly almost over under more less than least most up to half halves third thirds quarter quarters
fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth
hundredths thousandth thousandths squared cubed times factorial minus plus negative positive divided multiplied by
mod modulo base either neither both also is are was equals equal wrong incorrect false tens hundreds teen zero one
two three four five six seven eight nine ten twice double triple root power
"""
OTHER_MEANING = frozenset(_OTHER.split())
"""Words that never are a thing that was counted."""
_MOST_WORDS = 3
_OPERATORS = frozenset({"+", "-", "\\cdot", "/", "^", "_", "=", "(", "[", "{", ",", ":"})


@dataclass(frozen=True)
class Measured:
    """A value's tokens, the factor that words like million put on it, and its unit."""

    value: tuple[Token, ...]
    factor: Expr
    unit: str | None


def take_unit(tokens: Sequence[Token]) -> Measured:
    """Divides a quantity into value and unit. Raises UnreadableError for words that are no unit."""
    tokens = tuple(tokens)
    sign = tokens[:1] if tokens[:1] and tokens[0].text in ("-", "+") else ()
    rest = tokens[len(sign) :]
    if rest and rest[0].text in _CURRENCIES:
        inner = take_unit(rest[1:])
        if inner.unit not in (None, _CURRENCIES[rest[0].text]):
            raise UnreadableError("two units")
        return Measured(sign + inner.value, inner.factor, _CURRENCIES[rest[0].text])
    if len(tokens) > 1 and tokens[-1].text in _CURRENCIES:
        return Measured(tokens[:-1], sympy.Integer(1), _CURRENCIES[tokens[-1].text])
    modulus = _modulus_start(tokens)
    if modulus is not None:
        digits = "".join(t.text for t in tokens[modulus:] if t.kind in ("number", "letters") and t.text != "mod")
        return Measured(tokens[:modulus], sympy.Integer(1), f"mod {digits}")
    if len(tokens) > 3 and tokens[-3].text == "^" and tokens[-2].text == "\\circ" and tokens[-1].text in ("C", "F"):
        return Measured(tokens[:-3], sympy.Integer(1), "celsius" if tokens[-1].text == "C" else "fahrenheit")
    start = _unit_start(tokens)
    return Measured(tokens, sympy.Integer(1), None) if start is None else _named_unit(tokens[:start], tokens[start:])


def _modulus_start(tokens: tuple[Token, ...]) -> int | None:
    for index, token in enumerate(tokens[1:], 1):
        if token.text in ("\\pmod", "\\mod", "mod"):
            opened = tokens[index - 1].text == "(" and enclosed(tokens[index - 1 :])
            return index - 1 if opened else index
    return None


def _unit_start(tokens: tuple[Token, ...]) -> int | None:
    """Where the words begin that reach to the end."""
    start = len(tokens)
    for index in range(len(tokens) - 1, 0, -1):
        token = tokens[index]
        if _is_unit_word(token):
            if (
                tokens[index - 1].text not in _OPERATORS
                or tokens[index - 1].text == "/"
                or _in_parentheses(tokens, index)
            ):
                start = index
        elif token.kind == "number":
            if tokens[index - 1].text not in ("^", "{"):
                break
        elif token.text in ("h", "s", "m") and tokens[index - 1].text == "/":
            continue  # km/h
        elif token.text not in ("^", "/", "{", "}", "\\cdot", "(", ")", ".", "-"):
            break
    if start == len(tokens):
        return None
    return start - 1 if tokens[start - 1].text == "(" else start


def _in_parentheses(tokens: tuple[Token, ...], index: int) -> bool:
    return tokens[index - 1].text == "(" and index > 1 and tokens[-1].text == ")"


def _is_unit_word(token: Token) -> bool:
    if token.kind == "word":
        return True
    if token.kind != "letters" or len(token.text) < 2 or token.text in PLAIN_NAMES:
        return False
    known = token.text.lower() in _CANONICAL or token.text.lower() in _MULTIPLIERS
    return known or (token.spaced and len(token.text) > 3)


def _named_unit(value: tuple[Token, ...], words: tuple[Token, ...]) -> Measured:
    factor: Expr = sympy.Integer(1)
    while words and words[0].text.lower() in _MULTIPLIERS:
        factor = factor * _MULTIPLIERS[words[0].text.lower()]
        words = words[1:]
    if value and value[-1].text == "-":  # 5-inch
        value = value[:-1]
    if value[-2:] and value[-1].text == "\\circ":  # 20 degrees, both as sign and as word
        value = value[:-2]
    return Measured(value, factor, _canonical(words) if words else None)


def _canonical(tokens: tuple[Token, ...]) -> str:
    parts: list[str] = []
    prefix = ""
    unknown = 0
    for token in tokens:
        word = token.text.lower()
        if word in ("square", "sq", "cubic", "cu"):
            prefix = "^2" if word[0] == "s" else "^3"
        elif word == "per":
            parts.append("/")
        elif token.text in ("{", "}", "(", ")", "."):
            continue
        elif token.kind in ("word", "letters"):
            if word not in _CANONICAL:
                unknown += 1
                if word in OTHER_MEANING or word in PLAIN_NAMES or len(word) < 3:
                    raise UnreadableError(f"{word!r} is no unit")
            parts.append(_CANONICAL.get(word, word.rstrip("s") or word) + prefix)
            prefix = ""
        else:
            parts.append(token.text)
    if unknown > _MOST_WORDS:
        raise UnreadableError("a sentence instead of a unit")
    unit = " ".join(parts).replace(" ^ ", "^").replace(" / ", "/")
    return _COMPOUND.get(unit, unit)
