"""The live display, on a real pseudo-terminal: bars while it runs, lines above them, a terminal in order afterwards."""

import re
import sys
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_process import BRIEF, HERE, Pipeline, UndisturbedRun
from pseudo_terminal import Terminal
from rich.console import Console
from test_artifacts import Shown, ask

from flows.display import picture
from flows.progress import Now, StepSeen, duration
from flows.runs import Run, open_run

CTRL_C = "\x03"
BAR = re.compile(r"(rollouts|updates|evaluate|stage \d) +([━─]*) ([\d,]+)/([\d,]+) (.*)")


@dataclass(frozen=True)
class Watched:
    """A run that was watched, interrupted, and watched again in a narrower window."""

    run: Run
    interrupted: Terminal
    resumed: Terminal
    statuses: tuple[int, int]


@pytest.fixture(scope="module")
def watched(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    store = tmp_path_factory.mktemp("watched")

    def terminal(columns: int, *arguments: str) -> Terminal:
        command = [sys.executable, str(HERE / "hurried_run.py"), *arguments, "--store", str(store)]
        return Terminal(command, pipeline.environment, columns)

    with terminal(120, "run", str(BRIEF)) as first:
        first.until(lambda screen: any(line.startswith("updates") for line in screen) and "reward" in screen[-1])
        first.press(CTRL_C)
        ended = first.end()
    with terminal(60, "resume", "brief") as second:
        return Watched(open_run(store, "brief"), first, second, (ended, second.end()))


def bars(terminal: Terminal) -> list[tuple[str, str, int, int]]:
    """Every bar that was shown: title, bar, done, total."""
    lines = Counter(line for screen in terminal.screens for line in screen)
    found = [BAR.fullmatch(line) for line in lines]
    return [(m[1], m[2], int(m[3].replace(",", "")), int(m[4].replace(",", ""))) for m in found if m]


def test_bars_tell_how_far_the_epochs_rollouts_and_updates_have_come(watched: Watched) -> None:
    planned = watched.run.history.sql(
        "SELECT stage, prompts, steps FROM epochs WHERE stage > 0 AND epoch = 0"
    ).to_pylist()
    size = watched.run.settings.rollout.group_size
    shown = bars(watched.interrupted) + bars(watched.resumed)
    assert {title for title, *_ in shown} >= {"rollouts", "updates"}
    assert {total for title, _, _, total in shown if title == "rollouts"} <= {row["prompts"] * size for row in planned}
    assert {total for title, _, _, total in shown if title == "updates"} <= {row["steps"] for row in planned}
    for _, bar, done, total in shown:
        assert bar.count("━") == len(bar) * done // total


def test_ctrl_c_leaves_the_terminal_in_order_with_the_message_below_the_bars(watched: Watched) -> None:
    terminal, screen = watched.interrupted, watched.interrupted.screen
    assert watched.statuses[0] == 1
    assert b"\x1b[?25l" in terminal.written  # it was hidden while the display was there
    assert terminal.cursor_is_shown
    assert screen[-1].startswith("srpo: interrupted")
    assert sum(line.startswith("updates ") for line in screen) == 1
    assert "Traceback" not in "\n".join(screen)


def test_lines_scroll_above_the_bars_each_once_and_whole(watched: Watched) -> None:
    for terminal in (watched.interrupted, watched.resumed):
        text = "".join(line.ljust(terminal.columns) for line in terminal.screen)  # as if lines were not cut
        steps = re.findall(r"stage \d · epoch \d · step +\d+/\d+ · reward [\d.]+ · .*?learned in [\d.]+ s", text)
        assert steps
        assert len(set(steps)) == len(steps)
        assert text.count("· step ") == len(steps)


def test_after_its_end_there_is_the_table_alone(watched: Watched) -> None:
    assert watched.statuses[1] == 0
    assert watched.resumed.cursor_is_shown
    assert not any(BAR.fullmatch(line) for line in watched.resumed.screen)
    assert any(line.startswith("report:") for line in watched.resumed.screen)


def test_where_there_is_no_terminal_there_are_no_bars(undisturbed: UndisturbedRun) -> None:
    assert "\x1b" not in undisturbed.output
    assert "\r" not in undisturbed.output
    assert not any(BAR.fullmatch(line) for line in undisturbed.output.splitlines())


@pytest.fixture(scope="module")
def progress(pipeline: Pipeline, watched: Watched) -> Shown:
    return ask(pipeline, watched.run)


@pytest.mark.parametrize("kind", ["rollout", "update", "evaluate", "run"])
def test_progress_of_what_was_finished_ends_at_100(progress: Shown, kind: str) -> None:
    series = progress.artifacts[f"{kind}-progress"]
    assert series[-1] == 100
    assert all(0 <= percent <= 100 for percent in series)


works = st.builds(
    lambda kind, total, done: Work(kind, total, min(done, total)),
    st.sampled_from(["rollout", "update", "evaluate"]),
    st.integers(1, 10**7),
    st.integers(0, 10**7),
)
values = st.fixed_dictionaries(
    {"reward": st.floats(-9, 9), "frac_reward_zero_std": st.floats(0, 1), "num_tokens": st.floats(0, 1e9)},
    optional={"timing_s/generate": st.floats(0.01, 1e4)},
)
steps = st.builds(StepSeen, st.integers(1, 2), st.integers(0, 99), st.integers(1, 9999), st.just(9999), values)


@dataclass(frozen=True)
class Work:
    """How far a work has come, as the display reads it."""

    kind: str
    total: int
    done: int
    unit: str = "rollouts"

    @property
    def is_done(self) -> bool:
        return self.done >= self.total


@settings(deadline=None)
@given(st.lists(works, max_size=3), st.none() | steps, st.floats(0, 1e6), st.integers(10, 200))
def test_no_line_of_the_display_is_wider_than_the_terminal(
    shown: list[Work], step: StepSeen | None, seconds: float, width: int
) -> None:
    now = Now({work.kind: work for work in shown}, step)  # type: ignore[misc]
    now.ends.extend([0.0, seconds])
    lines = [str(line) for line in picture(now, seconds, width).renderables]
    console = Console(width=width, file=None)
    assert lines
    assert all(0 < console.measure(line).maximum <= width for line in lines)
    if width >= 60:  # wide enough for the longest title, shortest bar and largest counts: nothing is cut
        assert not any("…" in line for line in lines)


@settings(deadline=None)
@given(st.floats(0, 1e6))
def test_a_duration_reads_as_a_clock(seconds: float) -> None:
    parts = [int(part) for part in duration(seconds).split(":")]
    total = 0
    for part in parts:
        total = total * 60 + part
    assert total == round(seconds)
    assert all(part < 60 for part in parts[1:])
