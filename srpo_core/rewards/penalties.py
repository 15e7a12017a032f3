"""The penalties: code inside a math solution, mixed natural languages, and lengths near the limit.

SRPO's sources name a penalty "for mixed language or code" without a definition; these definitions are ours.
"""

import re
import unicodedata
from collections import Counter

# None of these takes more than linear time in a whole completion: a model may write anything.
_FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>\w*)", re.MULTILINE)
_STATEMENT = re.compile(
    r"\s*(?:def \w+\s*\(.*\)\s*(?:->.*)?:|class \w+.*:|(?:from [\w.]+ )?import [\w.*, ]+$|for \w+(?:, ?\w+)* in .+:|"
    r"while .+:|#include\s*[<\"]|(?:public|private|static) .*[{;]\s*$|return \w.*;\s*$|print(?:f|ln)?\(.*\);?\s*$)"
)
_NOT_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|</?(?:think|answer)>|\\[A-Za-z]+", re.DOTALL)
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]*\$|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
_TEXT_FENCES = {"", "text", "txt", "latex", "tex", "math"}
_OF_MATHEMATICS = {
    "GREEK",
    "COPTIC",
    "MATHEMATICAL",
    "DOUBLE-STRUCK",
    "SCRIPT",
    "BLACK-LETTER",
    "FEMININE",
    "MASCULINE",
}
_JOINED = {"CJK": "HAN", "HIRAGANA": "KANA", "KATAKANA": "KANA", "FULLWIDTH": "LATIN", "HALFWIDTH": "KANA"}

CODE_STATEMENTS = 2
STATEMENT_CHARACTERS = 400  # a longer line is taken for prose
FOREIGN_LETTERS = 4
FOREIGN_SHARE = 0.01


def code_in_math(completion: str) -> float:
    """1.0 when a math completion holds code, else 0.0.

    Code is a fenced block in a programming language, or two lines or more that are statements of one. A fenced
    block without a language, or of LaTeX, is none.
    """
    fenced = any(match["language"].lower() not in _TEXT_FENCES for match in _FENCE.finditer(completion))
    lines = (line for line in completion.splitlines() if len(line) <= STATEMENT_CHARACTERS)
    return float(fenced or sum(_STATEMENT.match(line) is not None for line in lines) >= CODE_STATEMENTS)


def mixed_language(question: str, completion: str) -> float:
    """1.0 when a completion writes in a script that its question does not, else 0.0.

    It takes four letters and 1 % of all letters at least, so that a name does not count. Fenced blocks are left out,
    and so are the letters of mathematics: Greek, double-struck, Latin ones in a formula. Japanese may use Han.
    Languages that share a script (English and French) are not told apart.
    """
    if question.isascii() and completion.isascii():
        return 0.0  # all of it Latin
    scripts = _scripts(completion)
    at_home = set(_scripts(question))
    if "KANA" in at_home:
        at_home.add("HAN")
    if not at_home:
        at_home = {script for script, _ in scripts.most_common(1)}
    foreign = sum(letters for script, letters in scripts.items() if script not in at_home)
    return float(foreign >= FOREIGN_LETTERS and foreign >= FOREIGN_SHARE * scripts.total())


def overlong(tokens: int, max_new_tokens: int, buffer: int) -> float:
    """How far a completion of `tokens` reaches into the last `buffer` tokens before the limit: 0 to 1, linearly.

    Source: the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13), with the sign turned round.
    """
    return min(max((tokens - (max_new_tokens - buffer)) / buffer, 0.0), 1.0)


def _scripts(text: str) -> Counter[str]:
    """Letters by script, as the first word of their Unicode names tells it; single letters are symbols."""
    counts: Counter[str] = Counter()
    prose = _FORMULA.sub(_without_latin, _NOT_LANGUAGE.sub(" ", text))
    for word in _WORD.findall(prose):
        for letter in word:
            script = unicodedata.name(letter, "UNKNOWN").split()[0]
            script = _JOINED.get(script, script)
            if script not in _OF_MATHEMATICS and (len(word) > 1 or script != "LATIN"):
                counts[script] += 1
    return counts


def _without_latin(formula: re.Match[str]) -> str:
    return re.sub(r"[A-Za-z]", " ", formula.group())
