"""A bench's figures: a table for people, JSON for programs, and how two ways are timed against each other."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured value beside its reference. `goal` is what `value` must reach: at least, or at most."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    goal: str | None = None
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Value over reference."""
        return self.value / self.reference if self.reference else None


@dataclass(frozen=True)
class Options:
    """What a bench was asked for."""

    quick: bool
    json: Path | None


def parser(description: str) -> argparse.ArgumentParser:
    """What the command lines of all benches have in common."""
    common = argparse.ArgumentParser(description=description)
    common.add_argument("--quick", action="store_true", help="fewer repetitions; ends within three minutes")
    common.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON")
    return common


def options(description: str) -> Options:
    """The command line of a bench that takes no other options."""
    asked = parser(description).parse_args()
    return Options(asked.quick, asked.json)


def tell(figures: Sequence[Figure], asked: Options) -> None:
    """Print the table, and write the JSON when asked."""
    table = Table("figure", "value", "reference", "ratio", "goal", "met")
    for figure in figures:
        reference = "-" if figure.reference is None else f"{figure.reference:,.4g}"
        ratio = "-" if figure.ratio is None else f"{figure.ratio:.2f}"
        met = "-" if figure.met is None else "yes" if figure.met else "no"
        table.add_row(figure.name, f"{figure.value:,.4g} {figure.unit}", reference, ratio, figure.goal or "-", met)
    Console(width=120).print(table)
    if asked.json:
        write_json(figures, asked.json)


def write_json(figures: Sequence[Figure], path: Path) -> None:
    """The figures for programs."""
    rows = [{**vars(figure), "ratio": figure.ratio} for figure in figures]
    path.write_text(json.dumps({"figures": rows}, indent=2) + "\n")


def timed_in_turn(repetitions: int, *ways: Callable[[], object]) -> list[float]:
    """Median seconds of each way, measured in turn A B A B, so that a machine that drifts is fair to all."""
    seconds: list[list[float]] = [[] for _ in ways]
    for repetition in range(repetitions + 1):
        for way, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way()
            if repetition:  # the first round warms up
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]
