"""The run in a terminal while it goes on: bars and figures at the foot of the screen, above them lines as they come.

What is shown is read from `flows.progress.NOW` a few times a second; the work knows nothing of it. Where there is no
terminal there is no display, and the lines alone are printed.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.text import Text

from flows.progress import NOW, Now, StepSeen, console, duration

REFRESHES = 4
"""A second."""
_LABEL, _BAR, _SHORTEST_BAR = 10, 40, 5
_TITLES = {"rollout": "rollouts", "update": "updates", "evaluate": "evaluate"}


@contextmanager
def displayed() -> Iterator[None]:
    """Show what this process is at during the block, where standard output is a terminal that can move its cursor.

    The terminal is left in order however the block ends. What an error interrupted stays on the screen.
    """
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield
        return
    began = time.monotonic()
    with Live(
        get_renderable=lambda: picture(NOW, time.monotonic() - began, console.width),
        console=console,
        refresh_per_second=REFRESHES,
        transient=True,
    ) as live:
        try:
            yield
        except BaseException:
            live.transient = False
            raise


def picture(now: Now, seconds: float, width: int) -> Group:
    """The display at this moment, `seconds` after it began, in lines of at most `width` cells."""
    works = [now.works[kind] for kind in _TITLES if kind in now.works]
    # Of an epoch's two works the one that has ended stays beside the other, and both until an evaluation begins.
    evaluates = any(work.kind == "evaluate" and not work.is_done for work in works)
    shown = [work for work in works if (work.kind == "evaluate") == evaluates]
    rows = [(_TITLES[work.kind], work.done, work.total, work.unit) for work in shown]
    if now.step is not None:
        rows.append((f"stage {now.step.stage}", now.step.done, now.step.limit, "steps at most"))
    return Group(*_bars(rows, width), *_wrapped([*_figures(now.step), *_times(now, seconds)], width))


def _bars(rows: Sequence[tuple[str, int, int, str]], width: int) -> list[Text]:
    """A line for each title, count, total and unit; bars are left out where there is no room for them."""
    counts = [f" {done:,}/{total:,} {unit}" for _, done, total, unit in rows]
    room = min(_BAR, width - _LABEL - max(map(len, counts), default=0))
    lines = []
    for (title, done, total, _), counted in zip(rows, counts, strict=True):
        cells = room if room >= _SHORTEST_BAR else 0
        full = cells * done // total
        line = Text.assemble(title.ljust(_LABEL), ("━" * full, "green"), ("─" * (cells - full), "dim"), counted)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _figures(step: StepSeen | None) -> list[str]:
    if step is None:
        return []
    values = step.values
    told = [f"epoch {step.epoch}", f"reward {values['reward']:.2f}"]
    told.append(f"zero variance {values['frac_reward_zero_std']:.0%}")
    if seconds := values.get("timing_s/generate"):
        told.append(f"{values['num_tokens'] / seconds:,.0f} tokens/s")
    return told


def _times(now: Now, seconds: float) -> list[str]:
    told, left = [f"{duration(seconds)} so far"], now.seconds_left()
    if left and now.step is not None:
        told.append(f"stage {now.step.stage} at most {duration(left)} more")
    return told


def _wrapped(parts: Sequence[str], width: int) -> list[Text]:
    """The parts with dots between them, in as many lines as they need."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part[:width])
    return [Text(line) for line in lines if line]
