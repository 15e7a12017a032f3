"""The report of a run, one HTML file that needs nothing else, and its picture for a README.

Everything shown is read through the history's views, so that `srpo sql` can go on where the report ends. A run may be
in any state: a part without data says that it has none. The picture, from a shell:

    python -m flows.report runs/demo docs/images/run.png docs/images/run.svg
"""

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows import charts
from flows.charts import Chart, StageStart, Style
from flows.runs import Run, RunError, open_run
from flows.settings_log import read_changes
from flows.status import Status, read_status
from srpo_core.settings_file import dump_settings
from storage.files import replace_file

Row = dict[str, Any]

_DOMAINS = ("all", "math", "code")
STAGES = {1: "stage 1: math", 2: "stage 2: math and code"}
ACCURACY = {
    "math": charts.DOMAINS["math"],
    "code": charts.DOMAINS["code"],
    "progress": Style("all prompts, those left out as at their last visit", "#222222", (1, 2), "diamond"),
}
VARIANCE = {
    "same": Style("all alike: nothing to learn from", "#222222", (), "circle"),
    "all_right": Style("of them all right", "#c08a00", (5, 3), "square"),
    "all_wrong": Style("of them all wrong", "#2d4a7a", (1, 2), "diamond"),
}
LENGTHS = {
    "mean_length": Style("mean", "#0072b2", (), "circle"),
    "p95_length": Style("95th percentile", "#d55e00", (5, 3), "square"),
}
FLIPS = 6  # of each kind
POINTS = 400  # of one line in a chart: longer histories are averaged
LETTERS = 1500  # of one completion
REASONS = 150
PIXELS = 2  # of the picture's PNG, per unit of its SVG

_EVALUATIONS = """
    SELECT stage, after, policy_version AS updates, coalesce(domain, 'all') AS domain, difficulty AS class,
           n, samples, pass_at_1, low, high, mean_tokens, truncated
    FROM evaluations ORDER BY stage, after, domain NULLS FIRST, difficulty NULLS FIRST
"""
_STARTS = "SELECT stage, first_version AS updates FROM epochs WHERE epoch = 0 ORDER BY stage"
_STEPS = """
    WITH measured AS (
        SELECT stage, epoch, step,
               max(value) FILTER (WHERE name = 'entropy') AS entropy,
               max(value) FILTER (WHERE name = 'grad_norm') AS grad_norm,
               max(value) FILTER (WHERE name = 'clip_ratio/region_mean') AS clip_ratio
        FROM metrics WHERE kind = 'update' GROUP BY ALL
    ),
    judged AS (
        SELECT stage, epoch, step,
               avg((correct = graded)::INT) FILTER (WHERE graded > 0) AS all_right,
               avg((correct = 0)::INT) FILTER (WHERE graded > 0) AS all_wrong,
               avg(accuracy) FILTER (WHERE domain = 'math') AS math,
               avg(accuracy) FILTER (WHERE domain = 'code') AS code
        FROM groups GROUP BY ALL
    ),
    placed AS (SELECT *, first_version + step AS place FROM step_stats JOIN epochs USING (stage, epoch))
    SELECT stage, min(place) AS updates, count(*) AS steps,
           avg(mean_reward) AS reward, avg(math) AS math, avg(code) AS code, avg(p.accuracy) AS progress,
           avg(zero_variance_accuracy) AS same, avg(all_right) AS all_right, avg(all_wrong) AS all_wrong,
           avg(mean_length) AS mean_length, avg(p95_length) AS p95_length, avg(truncated) AS truncated,
           avg(entropy) AS entropy, avg(grad_norm) AS grad_norm, avg(clip_ratio) AS clip_ratio
    FROM placed
    LEFT JOIN judged USING (stage, epoch, step)
    LEFT JOIN measured USING (stage, epoch, step)
    LEFT JOIN stage_progress AS p USING (stage, epoch, step)
    GROUP BY stage, place // $every ORDER BY updates
"""
_EPOCHS = """
    SELECT e.stage, e.epoch, e.prompts AS planned, v.prompts AS visited, v.easy, v.mixed, v.hard, v.ungraded AS other,
           f.prompts AS began, d.kept
    FROM epochs AS e
    JOIN epoch_stats AS v USING (stage, epoch)
    JOIN epochs AS f ON f.stage = e.stage AND f.epoch = 0
    LEFT JOIN (
        SELECT stage, epoch - 1 AS epoch, count(*) FILTER (WHERE keep) AS kept
        FROM decisions WHERE epoch > 0 GROUP BY ALL
    ) AS d USING (stage, epoch)
    ORDER BY e.stage, e.epoch
"""
_TRANSITIONS = (
    'SELECT stage, epoch, steps, decision, reason, slope, gain, "window" FROM transitions ORDER BY stage, epoch'
)
_DECISIONS = """
    SELECT stage, epoch, any_value(selector) AS selector, count(*) AS prompts, count(*) FILTER (WHERE keep) AS kept,
           histogram(bucket) AS buckets
    FROM decisions GROUP BY stage, epoch ORDER BY stage, epoch
"""
_REASONS = """
    SELECT stage, epoch, keep, bucket, reason, count(*) AS prompts, count(*) OVER () AS rows
    FROM decisions GROUP BY ALL ORDER BY stage, epoch, keep DESC, bucket, reason LIMIT $limit
"""
# A few decisions of each kind, the same ones at each reading, from anywhere in the run.
_SAMPLE = """
    SELECT d.stage, d.epoch, d.domain, d.difficulty AS class, d.prompt_id, p.question, d.keep, d.bucket, d.reason
    FROM decisions AS d JOIN prompts AS p USING (run, prompt_id)
    WHERE d.bucket <> 'new' AND d.selector <> 'transition'
    QUALIFY row_number() OVER (PARTITION BY d.bucket ORDER BY md5(concat(d.prompt_id, d.stage, d.epoch))) <= 3
    ORDER BY d.bucket, d.difficulty, d.stage, d.epoch, d.prompt_id
"""
_FLIPS = """
    SELECT kind, domain, difficulty AS class, prompt_id, question, answer, from_stage, from_epoch, from_graded,
           to_stage, to_epoch, to_graded, to_correct, wrong_completion, right_completion,
           count(*) OVER (PARTITION BY kind) AS flipped
    FROM flips
    WHERE wrong_completion IS NOT NULL AND right_completion IS NOT NULL -- neither lay in an epoch that was pruned
    QUALIFY row_number() OVER (PARTITION BY kind ORDER BY class DESC, to_correct / to_graded DESC, prompt_id) <= $limit
    ORDER BY kind, class DESC, to_correct / to_graded DESC, prompt_id
"""

# Each goes between double quotes in a shell.
QUERIES = {
    "The prompts that were never solved, and how often they were tried": (
        "SELECT prompt_id, domain, difficulty, sum(graded) AS tries FROM prompt_stats GROUP BY ALL "
        "HAVING sum(correct) = 0 ORDER BY tries DESC LIMIT 20"
    ),
    "How prompts moved between easy, mixed and hard from one visit to the next": (
        "SELECT from_bucket, to_bucket, sum(prompts) AS prompts FROM bucket_transitions GROUP BY ALL ORDER BY ALL"
    ),
    "Whether longer completions earn more, step by step": (
        "SELECT stage, epoch, step, mean_length, p95_length, length_reward_correlation FROM step_stats ORDER BY ALL"
    ),
}


def write_report(run: Run) -> Path:
    """Write the run's report in place of an earlier one, whole, and give its path.

    Raises StoreError when the history cannot be read or the file not be written, SettingsError for damaged settings.
    """
    page = _environment().get_template("report.html.jinja").render(**_content(run))

    def write(path: Path) -> None:
        path.write_text(page, encoding="utf-8")

    replace_file(run.report, run.history.tmp_root, write)
    return run.report


def write_picture(run: Run, path: Path) -> None:
    """Draw the run as one wide picture, PNG or SVG by the name of `path`, whose directory must be there.

    It shows held-out pass@1 over training, the prompts' buckets by epoch, and pass@1 by class before and after each
    stage. Raises RunError for a run without an epoch or evaluation, and for other kinds of file.
    """
    if path.suffix not in (".png", ".svg"):
        raise RunError(f"{path}: a picture is a .png or an .svg")
    figures = _Figures(run)
    if not (figures.overall and figures.epochs and figures.classes):
        raise RunError(f"run {run.name} has nothing to draw yet: it needs an evaluation and an epoch")
    picture = _picture(figures)
    if path.suffix == ".png":
        path.write_bytes(charts.png(picture, PIXELS))
    else:
        path.write_text(charts.svg(picture) + "\n", encoding="utf-8")


class _Figures:
    """What the history says, as the charts and the tables want it; all rows are plain and all floats finite."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.evaluations = self._rows(_EVALUATIONS)
        self.starts = [StageStart(row["updates"], STAGES[row["stage"]]) for row in self._rows(_STARTS)]
        total = self._rows("SELECT count(*) AS steps FROM step_stats")[0]["steps"]
        self.every = math.ceil(total / POINTS) or 1
        self.steps = self._rows(_STEPS, {"every": self.every})
        self.epochs = self._rows(_EPOCHS)
        self.transitions = self._rows(_TRANSITIONS)
        self.overall = [row for row in self.evaluations if row["class"] is None]
        self.classes = [row for row in self.evaluations if row["class"] is not None]
        self.phases = self._phases()

    def decisions(self) -> dict[str, list[Row]]:
        """Every decision counted by epoch and by reason, and a few of them in full."""
        epochs = [{**row, "buckets": dict(row["buckets"])} for row in self._rows(_DECISIONS)]
        return {"epochs": epochs, "reasons": self._rows(_REASONS, {"limit": REASONS}), "sample": self._rows(_SAMPLE)}

    def flips(self) -> list[Row]:
        """Pairs of a wrong and a right completion, the longest class first."""
        return [_told_flip(row) for row in self._rows(_FLIPS, {"limit": FLIPS})]

    def at(self, phase: str, domain: str, level: int | None) -> Row | None:
        """The evaluation of a domain (`all`: every one) and class (None: every one) that stands for a phase."""
        key = self.phases[phase]
        found = (
            r for r in self.evaluations if (r["stage"], r["after"], r["domain"], r["class"]) == (*key, domain, level)
        )
        return next(found, None)

    def by_class(self, domain: str) -> list[Row]:
        """The evaluations of each class in every phase, the phase told."""
        levels = sorted({row["class"] for row in self.classes})
        told = [(phase, self.at(phase, domain, level)) for phase in self.phases for level in levels]
        return [{**row, "phase": phase} for phase, row in told if row is not None]

    def _phases(self) -> dict[str, tuple[int, int]]:
        """What the columns before and after each stage are called, and the (stage, after) that each shows."""
        ended = {row["stage"] for row in self.transitions if row["decision"] != "continue"}
        last = {row["stage"]: row["after"] for row in self.overall}
        names = {0: "before training"} | {s: f"after stage {s}" if s in ended else f"stage {s} so far" for s in STAGES}
        return {names[stage]: (stage, after) for stage, after in last.items()}

    def _rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        rows: list[Row] = self.run.history.sql(query, parameters).to_pylist()
        return [{name: _finite(value) for name, value in row.items()} for row in rows]


def _content(run: Run) -> dict[str, Any]:
    figures = _Figures(run)
    status = read_status(run)
    drawn = {name: Markup(charts.svg(chart)) for name, chart in _charts(figures, status).items()}
    store = "" if str(run.store) == "runs" else f" --store {shlex.quote(str(run.store))}"
    return {
        "run": run,
        "status": status,
        "figures": figures,
        "charts": drawn,
        "headline": _headline(figures),
        "table": _table(figures),
        "cut_short": [row for row in figures.epochs if row["visited"] < row["planned"]],
        "decisions": figures.decisions(),
        "flips": figures.flips(),
        "settings": dump_settings(run.settings),
        "changes": read_changes(run.directory),
        "queries": {title: f'srpo sql {run.name} "{query}"{store}' for title, query in QUERIES.items()},
        "stages": STAGES,
    }


def _charts(figures: _Figures, status: Status) -> dict[str, Chart]:
    """The charts for which there are data."""
    drawn: dict[str, Chart] = {}
    if figures.overall:
        drawn["learning"] = charts.learning_curve(figures.overall, figures.starts, width=820, height=270)
    if figures.classes:
        domains = [name for name in ("math", "code") if any(row["domain"] == name for row in figures.classes)]
        drawn["phases"] = charts.beside(*(_phases(figures, name, name, 375, 220) for name in domains), same=True)
        drawn["classes"] = charts.class_curves(figures.classes, figures.starts)
    if figures.steps:
        drawn |= _step_charts(figures)
    if figures.epochs:
        shares = charts.bucket_shares(figures.epochs, width=375, height=230)
        counts = charts.bucket_counts(figures.epochs, width=375, height=230)
        drawn["buckets"] = charts.beside(shares, counts)
    work = {kind: value for kind, value in status.seconds.items() if kind != "wall"}
    if work:
        drawn["seconds"] = charts.seconds_bars(work, status.seconds.get("wall", 0.0), width=560)
    return drawn


def _step_charts(figures: _Figures) -> dict[str, Chart]:
    """What each training step was like."""
    starts, steps = figures.starts, figures.steps

    def panel(field: str, title: str, y_format: str = "", *, width: int = 165, height: int = 120) -> Chart:
        style = {field: Style(title, "#444444")}
        return charts.step_lines(steps, style, starts, width=width, height=height, y_title=title, y_format=y_format)

    def wide(series: dict[str, Style], title: str, y_format: str) -> Chart:
        return charts.step_lines(
            steps, series, starts, width=820, height=200, y_title=title, y_format=y_format, share=True
        )

    lengths = charts.step_lines(steps, LENGTHS, starts, width=530, height=190, y_title="tokens", y_format=".0f")
    told = {"reward": "reward", "entropy": "entropy, nats", "grad_norm": "gradient norm", "clip_ratio": "clip ratio"}
    updates = [panel(name, title) for name, title in told.items() if any(step[name] is not None for step in steps)]
    return {
        "training": wide(ACCURACY, "training accuracy", ".1f"),
        "variance": wide(VARIANCE, "share of the groups", ".0%"),
        "lengths": charts.beside(lengths, panel("truncated", "share cut off", ".0%", width=190, height=190)),
        "updates": charts.beside(*updates, same=True),
    }


def _picture(figures: _Figures) -> Chart:
    """One wide chart of a whole run."""
    shares_width = min(330, 70 + 60 * len(figures.epochs))
    parts = {
        "Held-out pass@1 over training": charts.learning_curve(figures.overall, figures.starts, width=400, height=250),
        "The prompts of each epoch": charts.bucket_shares(figures.epochs, width=shares_width, height=250),
    }
    for title, chart in parts.items():
        chart.title = title
    last = _phases(figures, "all", "Before and after, by length of the problem", 360, 250)
    return charts.beside(*parts.values(), last)


def _phases(figures: _Figures, domain: str, title: str, width: int, height: int) -> Chart:
    return charts.phases(figures.by_class(domain), list(figures.phases), width=width, height=height, title=title)


def _headline(figures: _Figures) -> list[Row]:
    """First and last held-out pass@1, over all and by domain."""
    rows = []
    for domain in _DOMAINS:
        found = [row for row in figures.overall if row["domain"] == domain]
        if found:
            first, last = found[0], found[-1]
            apart = last["low"] > first["high"] or last["high"] < first["low"]
            rows.append({"domain": domain, "first": first, "last": last, "apart": apart, "only": len(found) == 1})
    return rows


def _table(figures: _Figures) -> list[Row]:
    """pass@1 by domain and class, with a cell for each phase."""
    keys = {(_DOMAINS.index(row["domain"]), row["class"] or 0) for row in figures.evaluations}
    rows = []
    for place, number in sorted(keys):
        domain, level = _DOMAINS[place], number or None
        cells = [figures.at(phase, domain, level) for phase in figures.phases]
        told = [cell for cell in cells if cell is not None]
        gain = told[-1]["pass_at_1"] - told[0]["pass_at_1"] if len(told) > 1 else None
        rows.append(
            {"place": place, "domain": domain, "class": level, "n": told[-1]["n"], "cells": cells, "gain": gain}
        )
    return rows


def _told_flip(row: Row) -> Row:
    """A flip with the part that both completions begin with set apart, and long completions cut."""
    wrong, right = row["wrong_completion"], row["right_completion"]
    same = next((n for n, (a, b) in enumerate(zip(wrong, right, strict=False)) if a != b), min(len(wrong), len(right)))
    if row["kind"] == "training":
        came, went = (f"stage {row[f'{end}_stage']}, epoch {row[f'{end}_epoch']}" for end in ("from", "to"))
    else:
        came, went = (_evaluation_name(row[f"{end}_stage"], row[f"{end}_epoch"]) for end in ("from", "to"))
    return {**row, "came": came, "went": went, "wrong": _cut(wrong, same), "right": _cut(right, same)}


def _evaluation_name(stage: int, after: int) -> str:
    return "base policy" if stage == 0 else f"stage {stage}, after {after} epoch{'s' if after > 1 else ''}"


def _cut(text: str, same: int) -> Row:
    shown = text[:LETTERS]
    return {"same": shown[:same], "rest": shown[same:], "more": len(text) - len(shown)}


def _finite(value: object) -> object:
    """A value as it is, but None for a float that no chart can place (a diverged run has some)."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flows", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["share"] = lambda value: f"{value:.3f}"
    environment.filters["interval"] = lambda row: f"{row['low']:.3f}–{row['high']:.3f}"
    environment.filters["signed"] = lambda value: "–" if value is None else f"{value:+.3f}"
    environment.filters["duration"] = lambda value: f"{value:.0f} s" if value < 300 else f"{value / 60:.1f} min"
    return environment


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.report", description="Draw a run for a README.")
    parser.add_argument("run", type=Path, help="the run's directory, such as runs/demo")
    parser.add_argument("picture", type=Path, nargs="+", help="files to write, .png or .svg")
    parsed = parser.parse_args(arguments)
    run = open_run(parsed.run.parent, parsed.run.name)
    for picture in parsed.picture:
        write_picture(run, picture)


if __name__ == "__main__":
    _main()
