"""The format part: `<think>…</think><answer>…</answer>`, each tag exactly once, nothing outside."""

import re
from dataclasses import dataclass

_WHOLE = re.compile(r"\s*<think>(?P<thought>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Sections:
    """What stands between the tags: None where a pair is missing, repeated or out of order."""

    thought: str | None
    answer: str | None
    well_formed: bool


def read_sections(completion: str) -> Sections:
    """Takes a completion apart. `well_formed` is the whole format; the parts are read as leniently as is unambiguous.

    An answer that stands exactly once is read even when text surrounds it, so that a broken format alone does not
    turn a right answer into none: format and accuracy stay separate parts.
    """
    # Counted first: on a text of thousands of tags the pattern alone would take quadratic time.
    well_formed = all(completion.count(tag) == 1 for tag in _TAGS) and _WHOLE.fullmatch(completion) is not None
    return Sections(_between(completion, "think"), _between(completion, "answer"), well_formed)


def _between(completion: str, tag: str) -> str | None:
    opening, closing = f"<{tag}>", f"</{tag}>"
    if completion.count(opening) != 1 or completion.count(closing) != 1:
        return None
    _, _, rest = completion.partition(opening)
    inner, found, _ = rest.partition(closing)
    return inner.strip() if found else None
