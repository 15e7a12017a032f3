"""Which names the tests of a problem use, and whose they are: the candidate's, or the standard library's."""

import ast
import builtins
import functools
import importlib
import sys
from collections.abc import Sequence

_STANDARD = ("math", "collections", "itertools", "functools", "fractions", "decimal", "datetime", "typing")


def names_of_tests(texts: Sequence[str], entry_point: str | None) -> tuple[list[str], list[str]]:
    """The names under test, and the other names that the tests use and do not define, built-ins left out.

    Under test is the entry point; without one, every function that the tests call and that is not the standard
    library's; if all of them are, all (a problem may ask for a `gcd`), and if they call built-ins only, the first one
    (it may ask for a `sum`). Raises SyntaxError.
    """
    used: dict[str, None] = {}
    called: dict[str, None] = {}
    made: set[str] = set()
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            made.update(_made(node))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used[node.id] = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called[node.func.id] = None
    free = [name for name in used if name not in made and not hasattr(builtins, name)]
    if entry_point is not None:
        subjects = [entry_point]
    else:
        candidates = [name for name in called if name in free]
        subjects = [name for name in candidates if not is_standard(name)] or candidates or list(called)[:1]
    return subjects, [name for name in free if name not in subjects]


@functools.cache
def is_standard(name: str) -> bool:
    """Whether tests may use the name without an import and mean the standard library's."""
    return name in sys.stdlib_module_names or home_of(name) is not None


@functools.cache
def home_of(name: str) -> str | None:
    """The module of the standard library that such a name is taken from."""
    return next((home for home in _STANDARD if hasattr(importlib.import_module(home), name)), None)


def _made(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return [node.id]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    return [node.name] if isinstance(node, ast.ExceptHandler) and node.name else []
