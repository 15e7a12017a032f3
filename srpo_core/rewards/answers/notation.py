"""One way of writing for each thing: LaTeX, plain text and Unicode become the same plain LaTeX."""

import re

_CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "＋": "+", "＝": "=",
    "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "*": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "≡": r"\equiv ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
    "∈": r"\in ", "∅": r"\emptyset ", "ø": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "°": r"^\circ ", "º": r"^\circ ", "…": r"\dots ", "⋯": r"\dots ",
    "∠": r"\angle ", "△": r"\triangle ", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "′": "'", "’": "'", "‘": "'", "％": r"\%", "，": ",", "。": ".", "：": ":",
    "；": ";", "（": "(", "）": ")", "∶": ":", "∣": "|", "∧": r"\land ", "∨": r"\lor ", "→": r"\to ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ",
    "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ",
    "ρ": r"\rho ", "Δ": r"\Delta ", "Ω": r"\Omega ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}",
    "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}",
    "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "",
}  # fmt: skip
_TRANSLATE = str.maketrans(_CHARACTERS)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))

_REWRITES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"√\s*\(", r"\\sqrt("),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt "),
        (r"(?<!\\)\\[()\[\]]", " "),  # delimiters of inline and displayed math
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|middle)(?![A-Za-z])|\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|hfill|rm|bf|it)(?![A-Za-z])", " "),
        (r"\\(?:tag|label|phantom|hspace|vspace|color)\*?\s*\{[^{}]*\}", " "),
        (r"\\textcolor\s*\{[^{}]*\}", " "),
        (r"(?<=\d)(?:\{,\}|,?(?:\\[,!:; ]\s*)+|,\s*\\!\s*|~)(?=\d{3}(?!\d))", "\N{FULLWIDTH COMMA}"),  # 10\,000
        (r"(?<!\\)\\(?:[,;:! ]|quad(?![A-Za-z])|qquad(?![A-Za-z]))|~", " "),
        (r"\\\\\s*\[[^\]\\]*\]", r"\\\\ "),  # a line break with its distance
        (r"\\(?:thickapprox|simeq|approxeq|doteq)(?![A-Za-z])", r"\\approx "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\(?:mathrm|mathit|operatorname)\*?\s*\{\s*([deij])\s*\}", r"\1"),
        (r"\\(?:operatorname|mathrm|text)\*?\s*\{\s*(lcm|gcd|arcsin|arccos|arctan|sgn|arcsec|cis)\s*\}", r"\\\1 "),
        (r"\\(?:mathbf|boldsymbol|vec|hat|mathbf)\s*\{?\s*\\?([ijk])(?:math)?\s*\}", r"\\unit\1 "),
        (r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf)\s*\{\s*([A-Za-z0-9]+)\s*\}", r"\1"),
        (r"\\(?:mbox|textrm|textbf|textit|textup|textnormal|textsf|texttt|mathrm|mathsf|hbox|operatorname\*?)"
         r"(?![A-Za-z])", r"\\text"),
        (r"\\(?:leq|leqslant|leqq|lte)(?![A-Za-z])|<=|=<", r"\\le "),
        (r"\\(?:geq|geqslant|geqq|gte)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])|\\not\s*=|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:times|ast|bullet)(?![A-Za-z])", r"\\cdot "),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\\(?:mid|vert|lvert|rvert)(?![A-Za-z])", "|"),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:ldots|cdots|dotsc|dotsb)(?![A-Za-z])|\.\.\.", r"\\dots "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\lbrack(?![A-Za-z])", "["),
        (r"\\rbrack(?![A-Za-z])", "]"),
        (r"\\infin(?![A-Za-z])", r"\\infty "),
        (r"\\(?:degree|degrees)(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"\\var(phi|epsilon|theta|rho|sigma)(?![A-Za-z])", r"\\\1 "),
        (r"\\(?:R|Reals|reals)(?![A-Za-z])", r"\\mathbb{R}"),
        (r"\\mathbb\s*([RZNQC])(?![A-Za-z])", r"\\mathbb{\1}"),
        (r"\\(?:vee)(?![A-Za-z])", r"\\lor "),
        (r"\\(?:wedge)(?![A-Za-z])", r"\\land "),
        (r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus "),
        (r"(?<!\\)%", r"\\%"),
        (r"\b([aApP])\.\s?[mM]\b\.?", r"\1m"),
        (r"(?<=\d)\s*(am|pm|AM|PM)\b", r"\\text{ \1}"),
    ]
]  # fmt: skip
_DELIMITER = re.compile(r"(?<!\\)\$")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?")
_PERIOD_IN_PARENTHESES = re.compile(r"(?<![\d.])(\d+)\.\((\d+)\)")
_DOTTED = re.compile(r"(?<![\d.])(\d*)\.(\d+)\s*\\dots(?![A-Za-z])")
_BLOCK = re.compile(r"(\d*?)(\d+?)\2+$")
_SPACE = re.compile(r"\s+")
_IDLE_SPACE = re.compile(r"(?<![A-Za-z0-9,]) | (?![A-Za-z0-9])")
_LONGEST_PERIOD = 60
_TRAILING = " .,;:"
_MARK = "\N{FULLWIDTH COMMA}"


def normalise(text: str) -> str:
    """The same answer in plain notation: no delimiters, no decoration, no idle space; thousands without separators.

    What it does not know it leaves as it is. Takes time linear in the text's length.
    """
    text = text.strip().strip("*").replace("**", "^")
    text = _scripts(text.translate(_TRANSLATE))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _DELIMITER.sub(" ", _currency(text)).replace(_MARK, "")
    text = _REPEATING.sub(_repeating_fraction, text)
    text = _PERIOD_IN_PARENTHESES.sub(lambda found: _fraction(found.group(1), "", found.group(2)), text)
    text = _DOTTED.sub(_dotted_fraction, text)
    text = _IDLE_SPACE.sub("", _SPACE.sub(" ", text)).strip()
    return _without_end(text)


def _scripts(text: str) -> str:
    """Raised and lowered Unicode digits as ^{…} and _{…}."""
    for table, mark in ((_RAISED, "^"), (_LOWERED, "_")):
        if any(character in table for character in text):
            run = re.compile(f"[{''.join(table)}]+")
            text = run.sub(lambda found, t=table, m=mark: f"{m}{{{''.join(t[c] for c in found.group())}}}", text)  # type: ignore[misc]
    return text


def _currency(text: str) -> str:
    """A dollar sign before a number that no second one closes is money."""
    alone = len(_DELIMITER.findall(text)) == 1
    return re.sub(r"(?<!\\)\$(?=\s*\d)", r"\\$", text) if alone else text


def _without_end(text: str) -> str:
    while text:
        shorter = text.rstrip(_TRAILING)
        if shorter.endswith("\\"):  # a line break, or a space command cut in two
            shorter = shorter.rstrip("\\")
        if shorter == text:
            break
        text = shorter
    return text.lstrip(" .,;:") if text[:1] in " ,;:" else text


def _repeating_fraction(found: re.Match[str]) -> str:
    return _fraction(found.group(1), found.group(2), found.group(3))


def _dotted_fraction(found: re.Match[str]) -> str:
    """0.333… repeats its last block when that stands at least three times, or is long and stands twice."""
    block = _BLOCK.fullmatch(found.group(2)) if len(found.group(2)) <= _LONGEST_PERIOD else None
    if block is None:
        return found.group()
    start, repeated = block.group(1), block.group(2)
    times = (len(found.group(2)) - len(start)) // len(repeated)
    if times < (3 if len(repeated) < 3 else 2):
        return found.group()
    return _fraction(found.group(1), start, repeated)


def _fraction(whole: str, start: str, repeated: str) -> str:
    nines = int("9" * len(repeated)) * 10 ** len(start)
    top = int((whole or "0") + start + repeated) - int((whole or "0") + start)
    return f"(\\frac{{{top}}}{{{nines}}})"
