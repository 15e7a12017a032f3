"""The lab's world: chains of one to eight small operations, asked as math or as code.

Math: `has 6 gets 1 loses 3`, solved by `<think>6+1=7-3=4</think><answer>4</answer>`.
Code: `f 2*x+5 add 3 mul 2`, solved by `<think>+3=2,8*2=4,16</think><answer>4*x+16</answer>`.

A state is a tuple of numbers in 0..29: the one value of a math chain, slope and intercept of a code chain.
Adding and subtracting change its last number, multiplying changes all of them. Difficulty is the number of
operations. Held-out problems are told by a hash of their question alone, so no seed and no count can move a
problem from one side to the other.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from srpo_core.problems.problem import Domain, Problem

Split = Literal["train", "heldout"]
State = tuple[int, ...]

SOURCE = "lab"
DOMAINS: tuple[Domain, ...] = ("math", "code")
MAX_DIFFICULTY = 8
MAX_NUMBER = 29
MAX_OPERAND = 5
FACTOR = 2
HELDOUT_ONE_IN = 4

_WORDS: dict[Domain, dict[str, str]] = {
    "math": {"gets": "+", "loses": "-", "times": "*"},
    "code": {"add": "+", "sub": "-", "mul": "*"},
}
_SYMBOLS: dict[Domain, dict[str, str]] = {
    domain: {symbol: word for word, symbol in words.items()} for domain, words in _WORDS.items()
}
_MULTIPLY_SHARE: dict[Domain, float] = {"math": 0.10, "code": 0.15}
_HEADS: dict[Domain, re.Pattern[str]] = {
    "math": re.compile(r"has (\d{1,2})((?: [a-z]+ \d{1,2})+)"),
    "code": re.compile(r"f (\d{1,2})\*x\+(\d{1,2})((?: [a-z]+ \d{1,2})+)"),
}


@dataclass(frozen=True)
class Operation:
    """One link of a chain: `symbol` is one of `+ - *`, `operand` its number."""

    symbol: str
    operand: int

    def apply(self, state: State) -> State:
        """The state after this operation."""
        if self.symbol == "*":
            return tuple(number * self.operand for number in state)
        change = self.operand if self.symbol == "+" else -self.operand
        return (*state[:-1], state[-1] + change)


@dataclass(frozen=True)
class Chain:
    """What a question says: where it starts and what is done, in order."""

    domain: Domain
    start: State
    operations: tuple[Operation, ...]

    def states(self) -> list[State]:
        """The state after each operation, in order."""
        states = []
        state = self.start
        for operation in self.operations:
            state = operation.apply(state)
            states.append(state)
        return states

    def question(self) -> str:
        """The chain as the lab asks it."""
        head = f"has {self.start[0]}" if self.domain == "math" else f"f {_expression(self.start)}"
        words = _SYMBOLS[self.domain]
        return head + "".join(f" {words[step.symbol]} {step.operand}" for step in self.operations)

    def thought(self) -> str:
        """The running thought that solves it: every operation with the state that it leads to."""
        links = [
            f"{step.symbol}{step.operand}={','.join(map(str, state))}"
            for step, state in zip(self.operations, self.states(), strict=True)
        ]
        return (str(self.start[0]) if self.domain == "math" else "") + "".join(links)

    def answer(self) -> str:
        """The final state: an integer in math, an expression in x in code."""
        end = self.states()[-1]
        return str(end[0]) if self.domain == "math" else _expression(end)


def _expression(state: State) -> str:
    return f"{state[0]}*x+{state[1]}"


def parse_question(domain: Domain, question: str) -> Chain:
    """Reads a lab question back into its chain. Raises ValueError if it is not one."""
    match = _HEADS[domain].fullmatch(question)
    words = _WORDS[domain]
    if match is None:
        raise ValueError(f"not a {domain} question of the lab: {question!r}")
    *start, tail = match.groups()
    parts = tail.split()
    if any(word not in words for word in parts[::2]):
        raise ValueError(f"not a {domain} question of the lab: {question!r} (operations: {', '.join(words)})")
    operations = tuple(
        Operation(words[word], int(operand)) for word, operand in zip(parts[::2], parts[1::2], strict=True)
    )
    return Chain(domain, tuple(map(int, start)), operations)


def problem_of(chain: Chain) -> Problem:
    """The problem that asks this chain."""
    return Problem(chain.domain, len(chain.operations), chain.question(), chain.answer(), SOURCE)


def solution(problem: Problem) -> str:
    """The completion that earns full reward: thought and answer in their tags."""
    chain = parse_question(problem.domain, problem.question)
    return f"<think>{chain.thought()}</think><answer>{chain.answer()}</answer>"


def split_of(question: str) -> Split:
    """The side a question is on: one in four is held out, by a hash of its text."""
    residue = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % HELDOUT_ONE_IN
    return "heldout" if residue == 0 else "train"


def draw_chain(domain: Domain, difficulty: int, stream: random.Random) -> Chain:
    """A random chain of `difficulty` operations whose every number stays within 0..29."""
    value = stream.randint(0, MAX_NUMBER)
    state: State = (value,) if domain == "math" else (stream.randint(1, 9), value)
    start = state
    operations = []
    for _ in range(difficulty):
        if max(state) * FACTOR <= MAX_NUMBER and stream.random() < _MULTIPLY_SHARE[domain]:
            operation = Operation("*", FACTOR)
        else:
            operation = stream.choice(_steps_from(state[-1]))
        state = operation.apply(state)
        operations.append(operation)
    return Chain(domain, start, tuple(operations))


def _steps_from(value: int) -> list[Operation]:
    additions = [Operation("+", operand) for operand in range(1, min(MAX_OPERAND, MAX_NUMBER - value) + 1)]
    return additions + [Operation("-", operand) for operand in range(1, min(MAX_OPERAND, value) + 1)]


def draw_problem(split: Split, domain: Domain, difficulty: int, stream: random.Random) -> Problem:
    """A random problem of one side of the split."""
    while True:
        problem = problem_of(draw_chain(domain, difficulty, stream))
        if split_of(problem.question) == split:
            return problem


def lab_problems(split: Split, counts: Mapping[tuple[Domain, int], int], seed: int) -> list[Problem]:
    """`counts[(domain, difficulty)]` different problems of each cell, in the order of `counts`.

    A cell's problems depend on the seed, the split and the cell alone, and a larger count only appends to them.
    Raises ValueError for a difficulty outside 1..8 and for a cell that has not so many problems.
    """
    problems: list[Problem] = []
    for (domain, difficulty), count in counts.items():
        if domain not in DOMAINS or not 1 <= difficulty <= MAX_DIFFICULTY:
            raise ValueError(
                f"the lab has no cell {(domain, difficulty)}: domains are {', '.join(DOMAINS)}, "
                f"difficulties 1 to {MAX_DIFFICULTY}"
            )
        stream = random.Random(f"{seed}/{split}/{domain}/{difficulty}")
        cell: dict[str, Problem] = {}
        misses = 0
        while len(cell) < count:
            problem = draw_problem(split, domain, difficulty, stream)
            misses = misses + 1 if problem.question in cell else 0
            if misses > _PATIENCE:
                raise ValueError(
                    f"the lab has only about {len(cell)} {split} problems of {domain} with {difficulty} "
                    f"operation(s), {count} were asked for"
                )
            cell.setdefault(problem.question, problem)
        problems.extend(cell.values())
    return problems


_PATIENCE = 2000
"""Draws without a new problem after which a cell counts as exhausted."""
