"""From a completion to the text of its answer: the last box counts, and only what follows the thinking.

Everything here is linear in the text's length, whatever stands in it.
"""

import re

from srpo_core.rewards.format import read_sections

_MARK = re.compile(r"\\(?:boxed|fbox)\s*\{|\\(?:boxed|fbox)\s*(?=[^\s{])|\\\\|\\[{}]|[{}]")
_BARE = re.compile(r"\\[A-Za-z]+|[^\s{}$\\]+")
_BETWEEN = re.compile(r"(?:[ \t,;$&~]|\\[,;:! ]|\\q?quad|\\(?:text|mbox)\s*\{\s*(?:and|or|,)?\s*\}|\b(?:and|or)\b)*")
_SAID = re.compile(
    r"\banswers?(?:\s+(?:to|for)\s+(?:this|the)\s+(?:question|problem))?\s*(?:\bis\b|\bare\b|\bwould be\b|=|:)\s*:?\s*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_LONGEST_BARE_ANSWER = 200
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit|operatorname)\s*\{[^{}]*\}")


def extract_answer(completion: str) -> str | None:
    """The answer's text, or None when none is given.

    The answer section counts when there is exactly one; else what follows the last `</think>`; else everything, unless
    the thinking never ends. There the last box counts (boxes side by side, with commas or `and` and `or` between them,
    are one answer in parts); a last box that never closes is no answer. Without a box the bare text of an answer
    section counts, what follows `the answer is`, and a text that is nothing but a short answer.
    """
    sections = read_sections(completion)
    if sections.answer is not None:
        return _from_text(sections.answer, bare=True)
    _, thought_ends, after = completion.rpartition("</think>")
    if not thought_ends and "<think>" in completion:
        return None
    return _from_text(after if thought_ends else completion, bare=False)


def _from_text(text: str, *, bare: bool) -> str | None:
    boxes, closed = _boxes(text)
    if boxes or not closed:
        return _last_boxes(text, boxes) if closed else None
    said = _what_is_said(text)
    if said is not None:
        return said
    stripped = text.strip()
    if not stripped or not (bare or _is_short_answer(stripped)):
        return None
    return stripped


def _boxes(text: str) -> tuple[list[tuple[int, int, int]], bool]:
    """Outermost boxes as (start, start of content, end of content), and whether the last one to open is closed."""
    found: list[tuple[int, int, int]] = []
    open_groups: list[tuple[int, int] | None] = []
    latest, latest_closed = -1, True
    for mark in _MARK.finditer(text):
        token = mark.group()
        if token == "{":
            open_groups.append(None)
        elif token == "}":
            group = open_groups.pop() if open_groups else None
            if group is not None:
                latest_closed = latest_closed or group[0] == latest
                while found and found[-1][0] > group[0]:  # boxes inside this one
                    found.pop()
                found.append((group[0], group[1], mark.start()))
        elif token.endswith("{") and len(token) > 2:
            latest, latest_closed = mark.start(), False
            open_groups.append((mark.start(), mark.end()))
        elif len(token) > 2 and (content := _BARE.match(text, mark.end())):  # \boxed 5
            latest, latest_closed = mark.start(), True
            found.append((mark.start(), mark.end(), content.end()))
    return found, latest_closed


def _last_boxes(text: str, boxes: list[tuple[int, int, int]]) -> str | None:
    answer = last = _content(text, boxes[-1])
    for earlier, later in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        between = _BETWEEN.fullmatch(text, earlier[2] + 1, later[0])
        if between is None:
            break
        content = _content(text, earlier)
        if content != last:
            answer = content + (r" \text{ or } " if "or" in between.group() else ", ") + answer
    return answer or None


def _content(text: str, box: tuple[int, int, int]) -> str:
    content = text[box[1] : box[2]].strip()
    inner, closed = _boxes(content)
    if closed and len(inner) == 1 and inner[0][0] == 0 and inner[0][2] + 1 >= len(content):
        return _content(content, inner[0])
    return content


def _what_is_said(text: str) -> str | None:
    start = None
    for match in _SAID.finditer(text):
        start = match.end()
    if start is None:
        return None
    end = _SENTENCE_END.search(text, start)
    said = text[start : end.start() if end else len(text)].strip().strip("*").strip()
    return said or None


def _is_short_answer(text: str) -> bool:
    """One line with at most one word of prose outside of \\text."""
    if len(text) > _LONGEST_BARE_ANSWER or "\n" in text:
        return False
    return len(_WORD.findall(_TEXT.sub("", text))) <= 1
