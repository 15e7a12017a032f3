"""Matrices and determinants."""

import sympy

from srpo_core.rewards.answers.expressions import read_expression
from srpo_core.rewards.answers.kinds import Answer, Quantity, Table
from srpo_core.rewards.answers.limits import MAX_ELEMENTS, TooLargeError, UnreadableError
from srpo_core.rewards.answers.tokens import Token, split

_MATRICES = frozenset({"matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"})
_LARGEST_DETERMINANT = 4


def read_table(tokens: tuple[Token, ...]) -> Answer | None:
    """A matrix in any brackets, with a factor before it or not; a determinant is its value."""
    texts = [token.text for token in tokens]
    if "\\begin" not in texts:
        return None
    start = texts.index("\\begin")
    name = "".join(texts[start + 2 : texts.index("}", start)])
    if texts.count("\\begin") != 1 or texts.count("\\end") != 1 or name not in _MATRICES | {"vmatrix"}:
        raise UnreadableError(f"the environment {name!r} is not known")
    inner_start, end = texts.index("}", start) + 1, texts.index("\\end")
    if name == "array" and texts[inner_start] == "{":
        inner_start = texts.index("}", inner_start) + 1
    before, after = tokens[:start], tokens[texts.index("}", end) + 1 :]
    if [t.text for t in (*before[-1:], *after[:1])] in (["(", ")"], ["[", "]"]):
        before, after = before[:-1], after[1:]
    if after:
        raise UnreadableError("something follows a matrix")
    rows = _rows(tokens[inner_start:end])
    if name == "vmatrix":
        if before or len(rows) != len(rows[0]) or len(rows) > _LARGEST_DETERMINANT:
            raise UnreadableError("a determinant that is not square, or too large")
        return Quantity(sympy.Matrix(rows).det(method="berkowitz"))
    factor = read_expression(before) if before else sympy.Integer(1)
    return Table(tuple(tuple(factor * entry for entry in row) for row in rows))


def _rows(tokens: tuple[Token, ...]) -> list[list[sympy.Expr]]:
    lines = [line for line in split(tokens, frozenset({"\\\\"}))[0] if line]
    cells = [split(line, frozenset({"&"}))[0] for line in lines]
    if not cells or len({len(row) for row in cells}) != 1:
        raise UnreadableError("a matrix whose rows have different lengths")
    if sum(map(len, cells)) > MAX_ELEMENTS:
        raise TooLargeError(f"a matrix has more than {MAX_ELEMENTS} entries")
    return [[read_expression(cell) for cell in row] for row in cells]
