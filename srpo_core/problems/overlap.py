"""When two questions are the same one: by normalised text, and by the n-grams that they share.

Two questions are *equal* when their tokens are: words in small letters, numbers, and operators; spaces, punctuation,
dollar signs, pictures' code and ways of typesetting do not count. A question *resembles* another when it shares runs of
13 tokens with it that make up at least half of all runs of the shorter one. The runs' length is GPT-3's (arXiv
2005.14165, appendix C); the share is ours: boilerplate ("write your answer as a common fraction") makes runs too.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from srpo_core.problems.examples import NOTES

RUN = 13
SHARE = 0.5

_IGNORED = re.compile(
    "|".join(map(re.escape, NOTES))
    + r"|\[asy\].*?\[/asy\]|\\(?:left|right|[bB]igg?[lr]?|displaystyle|q?quad)(?![a-zA-Z])|\\[,;:! ]",
    re.DOTALL,
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[-+*/^=<>%!|]")


def tokens_of(text: str) -> tuple[str, ...]:
    """What counts of a question when it is compared."""
    plain = _FRACTION.sub(r"\\frac", unicodedata.normalize("NFKC", text))
    return tuple(_TOKEN.findall(_IGNORED.sub(" ", plain).casefold()))


class Overlaps:
    """Questions to compare others with."""

    def __init__(self, questions: Iterable[str]) -> None:
        self._places: dict[tuple[str, ...], int] = {}
        self._runs: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._lengths: list[int] = []
        for place, question in enumerate(questions):
            tokens = tokens_of(question)
            self._places.setdefault(tokens, place)
            runs = set(_runs(tokens))
            self._lengths.append(len(runs))
            for run in runs:
                self._runs[run].append(place)

    def find(self, question: str) -> int | None:
        """The place of a question that this one equals or resembles, None when there is none."""
        tokens = tokens_of(question)
        if tokens in self._places:
            return self._places[tokens]
        runs = set(_runs(tokens))
        shared = Counter(place for run in runs if run in self._runs for place in self._runs[run])
        close = [
            (count, -place) for place, count in shared.items() if count >= SHARE * min(len(runs), self._lengths[place])
        ]
        return -max(close)[1] if close else None


def _runs(tokens: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(tokens[start : start + RUN]) for start in range(len(tokens) - RUN + 1))
