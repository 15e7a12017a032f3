"""When two questions are the same one: by normalised text, and by the n-grams that they share.

Two questions are *equal* when their tokens are: words in small letters, numbers, and signs; space, punctuation, braces,
pictures' code and ways of typesetting do not count. A question *resembles* another when it shares runs of 13 tokens
(brackets left out) with it that make up at least half of all runs of the shorter one. Runs that many questions have are
boilerplate ("enter the equation of the plane in the form …") and count for nothing. The runs' length is GPT-3's (arXiv
2005.14165, appendix C), which ignores common runs too; the share and what is common are ours.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from srpo_core.problems.examples import NOTES

RUN = 13
SHARE = 0.5
COMMON = (
    6  # questions that have a run, the compared ones and those they are compared with, from which it is boilerplate
)

_IGNORED = re.compile(
    "|".join(map(re.escape, NOTES))
    + r"|\[asy\].*?\[/asy\]|\\(?:left|right|[bB]igg?[lr]?|displaystyle|q?quad)(?![a-zA-Z])|\\[,;:! ]",
    re.DOTALL,
)
_FRACTION = re.compile(r"\\[dtc]?frac(?![a-zA-Z])\s*(?:(\d)(\d))?")
_FRACTION = re.compile(r"\\[dtc]?frac(?![a-zA-Z])\s*(?:(\d)(\d))?")
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s$.,;:?'\"`´“”‘’~&#{}\\]")
_BRACKETS = frozenset("()[]")

Run = tuple[str, ...]


def tokens_of(text: str) -> tuple[str, ...]:
    """What counts of a question when it is compared."""
    plain = _FRACTION.sub(r"\\frac \1 \2 ", unicodedata.normalize("NFKC", text))
    return tuple(_TOKEN.findall(_IGNORED.sub(" ", plain).casefold()))


def find_overlaps(questions: Sequence[str], others: Sequence[str]) -> list[int | None]:
    """For each question the place of the one among `others` that it equals or resembles most; None without one."""
    theirs, ours = ([tokens_of(text) for text in texts] for texts in (others, questions))
    places = {tokens: place for place, tokens in reversed(list(enumerate(theirs)))}
    their_runs, our_runs = ([_runs(tokens) for tokens in texts] for texts in (theirs, ours))
    wanted = set().union(*their_runs)
    frequent = Counter(run for runs in (*their_runs, *our_runs) for run in runs if run in wanted)
    common = {run for run, count in frequent.items() if count >= COMMON}
    having: dict[Run, list[int]] = defaultdict(list)
    for place, runs in enumerate(their_runs):
        for run in runs - common:
            having[run].append(place)
    lengths = [len(runs - common) for runs in their_runs]
    return [
        places[tokens] if tokens in places else _most_alike(runs - common, having, lengths)
        for tokens, runs in zip(ours, our_runs, strict=True)
    ]


def _most_alike(runs: set[Run], having: Mapping[Run, Sequence[int]], lengths: Sequence[int]) -> int | None:
    shared = Counter(place for run in runs if run in having for place in having[run])
    alike = [(n, -place) for place, n in shared.items() if n >= SHARE * min(len(runs), lengths[place])]
    return -max(alike)[1] if alike else None


def _runs(tokens: Sequence[str]) -> set[Run]:
    words = [token for token in tokens if token not in _BRACKETS]
    return {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}
