"""Normalised text as tokens: numbers, letters of formulas, upright words, commands and signs."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from srpo_core.rewards.answers.limits import MAX_TOKENS, TooLargeError, UnreadableError

Kind = Literal["number", "letters", "word", "command", "sign"]


@dataclass(frozen=True)
class Token:
    """`letters` is a run of letters in a formula, `word` one inside \\text. `spaced`: white space stood before it."""

    kind: Kind
    text: str
    spaced: bool = False


_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?![\w.]))?"
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|([^\W\d_]+)|(\\(?:[A-Za-z]+|.))|(\S))", re.DOTALL)
_UPRIGHT = re.compile(rf"\s*(?:({_NUMBER})|([^\W\d_]+(?:['-][^\W\d_]+)*)|(\\(?:[A-Za-z]+|.))|(\S))", re.DOTALL)
_KINDS: tuple[Kind, ...] = ("number", "letters", "command", "sign")
OPENING = frozenset({"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\begin"})
CLOSING = frozenset({")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end"})


def tokenize(text: str) -> tuple[Token, ...]:
    """Tokens of a normalised text. Raises TooLargeError, and UnreadableError for a \\text that is not closed."""
    tokens = tuple(_tokens(text))
    if len(tokens) > MAX_TOKENS:
        raise TooLargeError(f"the answer has {len(tokens)} tokens, at most {MAX_TOKENS} are read")
    return _join_thousands(tokens)


def _tokens(text: str) -> Iterator[Token]:
    position = 0
    while position < len(text):
        if text.startswith("\\text", position) and not text[position + 5 : position + 6].isalpha():
            opening = text.find("{", position)
            if opening < 0 or text[position + 5 : opening].strip():
                raise UnreadableError("\\text without braces")
            closing = _closing(text, opening)
            yield from _upright(text[opening + 1 : closing])
            position = closing + 1
            continue
        found = _TOKEN.match(text, position)
        if found is None:
            break
        yield _token(found)
        position = found.end()


def _upright(text: str) -> Iterator[Token]:
    text = re.sub(r"\\text\s*(?=\{)|[{}~]", " ", text)
    for found in _UPRIGHT.finditer(text):
        token = _token(found)
        yield Token("word", token.text, True) if token.kind == "letters" else token


def _token(found: re.Match[str]) -> Token:
    index = found.lastindex or 4
    return Token(_KINDS[index - 1], found.group(index), found.group()[:1].isspace())


def _closing(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return position
    raise UnreadableError("\\text is not closed")


_GROUP = re.compile(r"\d{3}")


def _join_thousands(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """`1,000` outside of brackets is one number, and `1, 000` is; `1,5`, `1, 200` and `(1,200)` are two."""
    joined: list[Token] = []
    depth = index = 0
    while index < len(tokens):
        token = tokens[index]
        depth += (token.text in OPENING and token.text != "{") - (token.text in CLOSING and token.text != "}")
        run = _number_run(tokens, index)
        if len(run) > 1:
            if _is_one_number(run, depth):
                joined.append(Token("number", "".join(part.text for part in run), token.spaced))
            else:
                joined.extend(tokens[index : index + 2 * len(run) - 1])
            index += 2 * len(run) - 1
        else:
            joined.append(token)
            index += 1
    return tuple(joined)


def _number_run(tokens: Sequence[Token], index: int) -> list[Token]:
    """The numbers that follow each other from `index` on with commas between."""
    run: list[Token] = []
    while index < len(tokens) and tokens[index].kind == "number":
        run.append(tokens[index])
        if index + 2 >= len(tokens) or tokens[index + 1].text != "," or tokens[index + 2].kind != "number":
            break
        index += 2
    return run


def _is_one_number(run: list[Token], depth: int) -> bool:
    first, *others = run
    if not (first.text.isdigit() and len(first.text) <= 3 and not first.text.startswith("0")):
        return False
    *middle, last = others
    whole, _, _ = last.text.partition(".")
    if not all(_GROUP.fullmatch(part) for part in [*(token.text for token in middle), whole]):
        return False
    spaced = any(part.spaced for part in others)
    return all(part.text.startswith("0") for part in others) or (depth == 0 and not spaced)


def split(tokens: Sequence[Token], separators: frozenset[str]) -> tuple[list[tuple[Token, ...]], list[str]]:
    """The parts between separators that stand outside of all brackets, and the separators."""
    parts: list[list[Token]] = [[]]
    found: list[str] = []
    for token, depth in zip(tokens, depths(tokens), strict=True):
        if depth == 0 and token.text in separators:
            parts.append([])
            found.append(token.text)
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts], found


def depths(tokens: Sequence[Token]) -> list[int]:
    """How many brackets are open at each token; an opening and its closing one count as inside."""
    result: list[int] = []
    depth = 0
    for token in tokens:
        depth += token.text in OPENING
        result.append(max(depth, 0))
        depth -= token.text in CLOSING
    return result


def enclosed(tokens: Sequence[Token]) -> bool:
    """Whether the first token's bracket closes with the last token."""
    if len(tokens) < 2 or tokens[0].text not in OPENING or tokens[-1].text not in CLOSING:
        return False
    return all(depth > 0 for depth in depths(tokens))
