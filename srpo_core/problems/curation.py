"""Which problems are fit for training, as SRPO's data were chosen: every one that is dropped has its reason.

Known of the paper: no URLs or HTML, no multi-part, proof or picture questions, no code that needs files, network or a
special environment, answers verified. The patterns, their order, and what is a duplicate or held out are ours.
"""

import ast
import html
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from srpo_core.problems.examples import Example
from srpo_core.problems.overlap import find_overlaps, tokens_of
from srpo_core.problems.problem import Domain, Problem
from srpo_core.rewards.code import CodeTests, extract_code
from srpo_core.rewards.verifiers import SOLVED, UNGRADED, Verifiers

_any_case = partial(re.compile, flags=re.IGNORECASE)
_TAGS = "p|div|span|br|hr|img|table|tr|td|th|ul|ol|li|sub|sup|h[1-6]|font|strong|em|code|pre|html|body|center|b|i|u"
_PICTURE = "figure|diagram|picture|image|drawing|illustration|photo"
_ASK = (
    "find|what|how|which|who|compute|determine|prove|show|calculate|evaluate|solve|write|express|give|is|are|does|list"
)
_START = r"(?:^|[.?!:;,\])$]\s+|\b(?:and|then)\s+)"


@dataclass(frozen=True)
class Rule:
    """What no question may hold, fenced programs left out. Without a domain it is for all."""

    reason: str
    pattern: re.Pattern[str]
    domain: Domain | None = None


RULES = (
    Rule("url", _any_case(r"https?://|\bwww\.\w|\[link text\]")),
    Rule(
        "picture", _any_case(r"<image>|\[/?asy\]|\\includegraphics|!\[[^\]]*\]\(|<img\b|\\begin\{tikzpicture\}"), "math"
    ),
    # In a contest's notes a picture explains an example; in its statement it may stand for what is asked.
    Rule("picture", re.compile(r"\A(?:(?!\nNotes?\b).)*?(?:<image>|<img\b|!\[[^\]]*\]\()", re.DOTALL), "code"),
    Rule("html", _any_case(rf"</?(?:{_TAGS})(?:\s[^<>]*=[^<>]*)?\s*/?>|<a\s+href|<!--|&(?:nbsp|lt|gt|amp|quot|#\d+);")),
    Rule(
        "picture",
        _any_case(
            rf"\b(?:{_PICTURE})s? (?:\w+ ){{0,3}}(?:below|above|shown|at (?:the )?(?:right|left))\b"
            rf"|\b(?:following|accompanying) (?:{_PICTURE}|graph)\b"
            r"|\bgraph\b[^.?!]{0,60}\b(?:is|are) shown\b"
            r"|\b(?:in|from|of|see) the (?:figure|diagram|illustration)\b"
            r"|\bas (?:shown|pictured|drawn|illustrated|depicted)\b|\bpictured\b"
        ),
        "math",
    ),
    Rule(
        "multi-part",
        _any_case(
            rf"(?:^|\s)\(?[a1][).]\s*(?:{_ASK})\b.*?\s\(?[b2][).]\s*(?:{_ASK})\b|(?:^|\s)\(i\)\s*(?:{_ASK})\b.*?\s\(ii\)"
            rf"\s*(?:{_ASK})\b|\bpart \(?[ab]\b"
        ),
        "math",
    ),
    Rule(
        "proof",
        _any_case(
            rf"{_START}(?:dis)?prove\b|{_START}(?:show|demonstrate|justify) (?:that|why)\b|\b(?:give|write) a proof\b"
        ),
        "math",
    ),
    Rule(
        "files",
        _any_case(
            r"\b(?:input|output)\.txt\b|\.(?:csv|xlsx?|json|xml|pdf|docx?)\b|\b(?:read|write|open|save|load|parse)\w*\b"
            r"[^.\n]{0,30}\b(?:file|files|disk|directory|folder)\b"
        ),
        "code",
    ),
    Rule(
        "network",
        _any_case(r"\b(?:web ?page|urllib|http request|scrap(?:e|ing)|rest api)\b|\bdownload\w* (?:a|the)\b"),
        "code",
    ),
    Rule(
        "environment",
        _any_case(r"\b(?:numpy|pandas|scipy|sklearn|matplotlib|tensorflow|pytorch|django|flask|tkinter)\b"),
        "code",
    ),
)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[([^\[\]\n]{2,80})\]\(\s*https?://[^\s()]*(?:\([^\s()]*\)[^\s()]*)*\s*\)")
_ESCAPE = re.compile(r"&(?:nbsp|lt|gt|amp|quot|#\d+);")
_EMPTY_LINKS = {"link", "here", "this", "link text", "this link"}
_FILES = {"os", "io", "pathlib", "shutil", "tempfile", "glob", "csv", "sqlite3"}
_NETWORK = {"socket", "urllib", "http", "ftplib", "smtplib", "ssl", "asyncio", "requests"}
_SPECIAL = {"tkinter", "turtle", "subprocess", "multiprocessing", "ctypes", "signal"}
_PROBE = "\\boxed{-271828182845}"  # a plain number: what is judged of it tells whether the gold answer can be read


@dataclass(frozen=True)
class Dropped:
    """A problem that is not fit, and why; `detail` is what was found: a piece of text, a verdict, another problem."""

    problem: Problem
    reason: str
    detail: str


@dataclass(frozen=True)
class Curated:
    """What curation leaves, in order, and what it drops. `unproved` counts the code without a solution to prove it."""

    kept: list[Example]
    dropped: list[Dropped]
    unproved: int


def curate(examples: Sequence[Example], heldout: Iterable[Problem], verifiers: Verifiers) -> Curated:
    """The problems that are fit for training and resemble no held-out one. Raises SandboxUnavailable for code.

    A problem is dropped under the first reason that holds: its text, being a duplicate, resembling a held-out problem,
    and, last since it takes longest, a gold answer that our own verifier cannot use or turns away.
    """
    faults: dict[str, Dropped] = {}

    def left(found: Iterable[Dropped]) -> list[Example]:
        faults.update({fault.problem.id: fault for fault in found})
        return [example for example in examples if example.problem.id not in faults]

    examples = [cleaned(example) for example in examples]
    fit = left(fault for example in examples if (fault := text_fault(example)))
    fit = left(_repeated(fit, verifiers))
    fit = left(_held_out(fit, list(heldout)))
    fit = left(_unproven(fit, verifiers))
    dropped = [faults[example.problem.id] for example in examples if example.problem.id in faults]
    unproved = sum(example.problem.domain == "code" and example.reference is None for example in fit)
    return Curated(fit, dropped, unproved)


def cleaned(example: Example) -> Example:
    """The example with what its question says whole without: the address of a link, and escapes of HTML."""
    question = _LINK.sub(lambda link: link[0] if link[1].lower() in _EMPTY_LINKS else link[1], example.problem.question)
    question = _ESCAPE.sub(lambda escape: html.unescape(escape[0]), question)
    return replace(example, problem=replace(example.problem, question=question))


def text_fault(example: Example) -> Dropped | None:
    """What in a problem's text, or in its solution's imports, makes it unfit; None when nothing does."""
    problem = example.problem
    prose = _FENCED.sub(" ", problem.question)
    for rule in RULES:
        if rule.domain in (None, problem.domain) and (match := rule.pattern.search(prose)):
            return Dropped(problem, rule.reason, " ".join(match.group().split())[-80:])
    if problem.domain == "code":
        programs = [extract_code(example.reference or "") or "", CodeTests.from_json(problem.answer).setup]
        for module in _imports(programs):
            if reason := _needs(module):
                return Dropped(problem, reason, f"import {module}")
    return None


def _needs(module: str) -> str | None:
    if module in _FILES:
        return "files"
    if module in _NETWORK:
        return "network"
    return "environment" if module in _SPECIAL or module not in sys.stdlib_module_names else None


def _imports(programs: Iterable[str]) -> Iterator[str]:
    for program in programs:
        try:
            nodes = list(ast.walk(ast.parse(program)))
        except (SyntaxError, ValueError):  # judging it says so
            continue
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


def _repeated(examples: Sequence[Example], verifiers: Verifiers) -> Iterator[Dropped]:
    """Problems whose question was asked before; where the answers differ, none of them can be trusted."""
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for example in examples:
        groups.setdefault((example.problem.domain, *tokens_of(example.problem.question)), []).append(example.problem)
    for first, *others in groups.values():
        if not others:
            continue
        same = first.domain == "code" or all(
            judged.accuracy == 1
            for judged in verifiers.judge([(first, f"\\boxed{{{other.answer}}}") for other in others])
        )
        for problem in others if same else [first, *others]:
            twin = first if problem is not first else others[0]
            yield Dropped(
                problem, "duplicate" if same else "contradiction", f"{twin.id} ({twin.source}): {twin.answer[:40]}"
            )


def _held_out(examples: Sequence[Example], heldout: list[Problem]) -> Iterator[Dropped]:
    places = find_overlaps([example.problem.question for example in examples], [each.question for each in heldout])
    for example, place in zip(examples, places, strict=True):
        if place is not None:
            yield Dropped(example.problem, "held out", f"{heldout[place].id} ({heldout[place].source})")


def _unproven(examples: Sequence[Example], verifiers: Verifiers) -> Iterator[Dropped]:
    jobs = [(example.problem, example.reference) for example in examples if example.reference is not None]
    jobs += [(example.problem, _PROBE) for example in examples if example.problem.domain == "math"]
    for (problem, completion), judged in zip(jobs, verifiers.judge(jobs), strict=True):
        if judged.verdict in UNGRADED:
            yield Dropped(problem, "answer cannot be judged", judged.verdict)
        elif completion is not _PROBE and judged.verdict not in SOLVED:
            yield Dropped(problem, "solution is judged wrong", judged.verdict)
