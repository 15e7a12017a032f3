"""One verdict on one pair of gold answer and prediction. It runs in a worker: it needs sympy, and any text may come."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from srpo_core.rewards.answers.calculus import holds_calculus, read_calculus
from srpo_core.rewards.answers.comparison import same_answer
from srpo_core.rewards.answers.extraction import extract_answer
from srpo_core.rewards.answers.kinds import Answer
from srpo_core.rewards.answers.limits import TooLargeError, check_text
from srpo_core.rewards.answers.notation import normalise
from srpo_core.rewards.answers.reading import read_normalised

Judged = Literal["correct", "wrong_answer", "no_answer", "too_large", "gold_unreadable"]
_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Gold:
    """A gold answer: its plain text, and what it says (None when that cannot be read)."""

    text: str
    integer: int | None
    answer: Answer | None
    calculus: bool = False


@lru_cache(maxsize=4096)
def read_gold(text: str) -> Gold:
    """Reads a gold answer, boxed or not. What cannot be read is still equal to the same text."""
    if "boxed" in text or "fbox" in text:
        text = extract_answer(text) or ""
    try:
        check_text(text)
        plain = normalise(text)
        answer = read_calculus(plain) if holds_calculus(plain) else read_normalised(plain)
        return Gold(_key(plain), _integer(plain), answer, holds_calculus(plain))
    except TooLargeError:
        return Gold(_key(text), None, None)
    except MemoryError:
        raise
    except Exception:  # sympy raises errors of any kind on odd input: none of it can be read
        return Gold(_key(normalise(text)), None, None)


def judge_answer(gold: Gold, prediction: str) -> Judged:  # noqa: PLR0911  (one for each verdict)
    """Whether the prediction gives the gold answer."""
    text = extract_answer(prediction)
    if text is None:
        return "no_answer" if gold.text else "gold_unreadable"
    try:
        check_text(text)
        plain = normalise(text)
        if not gold.text or (gold.answer is None and _key(plain) != gold.text):
            return "gold_unreadable"
        if not plain:
            return "no_answer"
        if _key(plain) == gold.text:
            return "correct"
        integer = _integer(plain)
        if gold.integer is not None and integer is not None:
            return "correct" if integer == gold.integer else "wrong_answer"
        given = read_calculus(plain) if gold.calculus and holds_calculus(plain) else read_normalised(plain)
        return "correct" if gold.answer is not None and same_answer(gold.answer, given) else "wrong_answer"
    except TooLargeError:
        return "gold_unreadable" if gold.answer is None else "too_large"
    except MemoryError:
        raise
    except Exception:  # sympy raises errors of any kind on odd input: it is no answer that can be read
        return "gold_unreadable" if gold.answer is None else "wrong_answer"


def _key(plain: str) -> str:
    return plain.replace(", ", ",")


def _integer(plain: str) -> int | None:
    return int(plain) if _INTEGER.fullmatch(plain) else None
