"""The charts of a run's report: plain rows in, an Altair chart out, and a chart as static SVG or PNG.

Static SVG rather than a chart library in the page: the report stays small, prints as drawn, and works where scripts do
not. What a mark says on hovering is an SVG title. Series differ in dash and shape as well as in colour (Okabe and
Ito's colours for the colour-blind), and ordered ones in lightness, so that a grey print can be read.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

Rows = Sequence[Mapping[str, Any]]
Chart = alt.LayerChart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart

MANY = 150  # steps; beyond, no points on the lines
FEW = 14  # epochs; beyond, no figures in the bars
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_INK, _SOFT = "#222222", "#5f6368"
_CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "gridColor": "#e6e6e6",
        "domainColor": "#9a9a9a",
        "tickColor": "#9a9a9a",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 6,
    },
    "legend": {
        "orient": "top",
        "title": None,
        "labelFontSize": 11,
        "labelLimit": 400,
        "symbolSize": 70,
        "columnPadding": 14,
        "offset": 20,
    },
    "title": {"anchor": "start", "fontSize": 12, "fontWeight": "bold", "color": _INK, "offset": 6},
}


@dataclass(frozen=True)
class Style:
    """How a series is drawn: what the legend calls it, colour, dash (empty: solid), the points' shape."""

    label: str
    colour: str
    dash: tuple[int, ...] = ()
    shape: str = "circle"


@dataclass(frozen=True)
class StageStart:
    """Where a training stage begins: after how many policy updates, and what it is called."""

    updates: int
    label: str


DOMAINS = {
    "math": Style("math", "#0072b2"),
    "code": Style("code", "#d55e00", (5, 3), "square"),
    "all": Style("all domains", "#222222", (1, 2), "diamond"),
}
BUCKETS = {
    "easy": Style("easy: always right", "#f0d68a"),
    "mixed": Style("mixed: right and wrong", "#5aa9a3"),
    "hard": Style("hard: never right", "#2d4a7a"),
    "other": Style("not judged", "#b8b8b8"),
    "dropped": Style("dropped before", "#f4f4f4"),
}
PHASES = (("#8c8c8c", "circle"), ("#56b4e9", "triangle-up"), ("#00497d", "square"))


@dataclass(frozen=True)
class _Looks:
    """Colour, dash and shape of the field `series`, with one legend; a line takes no shape, or points are added."""

    styles: Sequence[Style]
    legend: bool = True
    points: bool = True  # drawn too: then the legend shows them, otherwise it shows the dashes

    def line(self) -> dict[str, Any]:
        dashes = [list(style.dash) or [1, 0] for style in self.styles]
        dash = alt.StrokeDash("series:N", **self._with(dashes, legend=self.legend and not self.points))
        return {"color": self.colour(), "strokeDash": dash}

    def point(self) -> dict[str, Any]:
        shapes = [style.shape for style in self.styles]
        return {"color": self.colour(), "shape": alt.Shape("series:N", **self._with(shapes, legend=self.legend))}

    def colour(self) -> alt.Color:
        return alt.Color("series:N", **self._with([style.colour for style in self.styles], legend=self.legend))

    def _shown(self) -> alt.Legend:
        # Filled points without an outline, which would be dashed.
        return alt.Legend(symbolStrokeWidth=0 if self.points else 2)

    def _with(self, values: Sequence[Any], *, legend: bool) -> dict[str, Any]:
        domain = [style.label for style in self.styles]
        scale = alt.Scale(domain=domain, range=list(values))
        return {"scale": scale, "legend": self._shown() if legend else None}


def svg(chart: Chart) -> str:
    """A chart as an SVG element to stand in a page."""
    text: str = vl_convert.vegalite_to_svg(chart.to_dict(validate=False), config=_CONFIG, allowed_base_urls=[])
    # Vega writes what a mark says into its aria-label; browsers show a title.
    told = re.compile(r'<(path|rect|line|text)((?: [\w:-]+="[^"]*")*?) aria-label="([^"]*)"((?: [\w:-]+="[^"]*")*)/>')
    return told.sub(r"<\1\2\4><title>\3</title></\1>", text)


def png(chart: Chart, scale: float) -> bytes:
    """A chart as a PNG image with `scale` pixels per unit of the SVG."""
    spec = chart.to_dict(validate=False)
    image: bytes = vl_convert.vegalite_to_png(spec, config=_CONFIG, allowed_base_urls=[], scale=scale)
    return image


def learning_curve(evaluations: Rows, starts: Sequence[StageStart], *, width: int, height: int) -> Chart:
    """Held-out pass@1 with its interval after so many policy updates, one line for each domain and one for all.

    An evaluation has updates, domain (or `all`), class, n, pass_at_1, low and high.
    """
    last = _last(evaluations, starts)
    x = _updates(last)
    layers = [*_boundaries(starts, last, x), *_curves(evaluations, tuple(DOMAINS), x, spread=5, size=46)]
    return alt.layer(*layers).properties(width=width, height=height)


def class_curves(evaluations: Rows, starts: Sequence[StageStart]) -> Chart:
    """One panel per class: held-out pass@1 with its interval after so many updates, one line for each domain."""
    last = _last(evaluations, starts)
    levels = sorted({row["class"] for row in evaluations})
    panels = []
    for place, level in enumerate(levels):
        x = _updates(last, titled=place + 4 >= len(levels))
        rows = [row for row in evaluations if row["class"] == level]
        layers = [
            *_boundaries(starts, last, x, named=False),
            *_curves(rows, ("math", "code"), x, spread=4, size=26, titled=place % 4 == 0),
        ]
        panels.append(alt.layer(*layers).properties(width=178, height=116, title=f"class {level}"))
    return alt.concat(*panels, columns=4, spacing=14)


def phases(evaluations: Rows, labels: Sequence[str], *, width: int, height: int, title: str) -> Chart:
    """pass@1 with its interval by class, side by side before training and after each stage.

    An evaluation has phase (one of `labels`, in order), updates, class, n, pass_at_1, low and high.
    """
    styles = [Style(label, colour, (), shape) for label, (colour, shape) in zip(labels, PHASES, strict=False)]
    looks = _Looks(styles)
    x = alt.X("class:O", title="class (1 is the shortest)", axis=alt.Axis(labelAngle=0, grid=False))
    layers: list[alt.Chart] = []
    for place, style in enumerate(styles):
        rows = [row for row in evaluations if row["phase"] == style.label]
        base = alt.Chart(_data(_told(rows, style.label))).encode(x=x)
        layers += _intervals(base, looks, offset=7 * (place - (len(styles) - 1) / 2), size=46)
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def step_lines(
    steps: Rows,
    series: Mapping[str, Style],
    starts: Sequence[StageStart],
    *,
    width: int,
    height: int,
    y_title: str,
    y_format: str = "",
    share: bool = False,
) -> Chart:
    """Values of the training steps, a line for each field of `series`, interrupted where a stage ends.

    A step has stage, updates and the fields; null where there is no value. `share`: the axis is 0 to 1.
    """
    rows = [
        {
            "updates": step["updates"],
            "stage": step["stage"],
            "value": step[field],
            "series": style.label,
            "told": f"step at {step['updates']} updates · {style.label}: {step[field]:{y_format or '.4g'}}",
        }
        for field, style in series.items()
        for step in steps
        if step[field] is not None
    ]
    used = [style for style in series.values() if any(row["series"] == style.label for row in rows)]
    points = len(steps) <= MANY
    looks = _Looks(used, legend=len(series) > 1, points=points)
    last = _last(steps, starts)
    flat = not any(row["value"] for row in rows)
    scale = alt.Scale(domain=[0, 1]) if share or flat else alt.Scale(zero=True)
    axis = alt.Axis(tickCount=4, format=y_format) if y_format else alt.Axis(tickCount=4)
    y = alt.Y("value:Q", title=y_title, scale=scale, axis=axis)
    x = _updates(last)
    base = alt.Chart(_data(rows)).encode(x=x, y=y)
    layers = [
        *_boundaries(starts, last, x, named=width > 300),
        base.mark_line(strokeWidth=1.8, aria=False).encode(detail="stage:N", **looks.line()),
    ]
    if points:
        dots = base.mark_point(size=14 if width > 300 else 5, filled=True, opacity=1)
        layers.append(dots.encode(description="told:N", **looks.point()))
    return alt.layer(*layers).properties(width=width, height=height)


def bucket_shares(epochs: Rows, *, width: int, height: int) -> Chart:
    """The shares of easy, mixed and hard prompts among those that each epoch visited, stacked.

    An epoch has stage, epoch, visited and the shares easy, mixed, hard, other.
    """
    rows = []
    for row in epochs:
        low = 0.0
        for bucket in ("easy", "mixed", "hard", "other"):
            share = row[bucket]
            rows.append(_segment(row, bucket, low, low + share, f"{share:.0%}", share >= 0.07 and len(epochs) <= FEW))
            low += share
    y = alt.Y("low:Q", title="share of the prompts", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    return alt.layer(*_stack(rows, epochs, y, ("easy", "mixed", "hard", "other"))).properties(
        width=width, height=height
    )


def bucket_counts(epochs: Rows, *, width: int, height: int) -> Chart:
    """What became of the prompts that each stage began with, epoch by epoch, stacked; above: how many stay.

    An epoch has stage, epoch, began (prompts of the stage's first epoch), planned, visited, the shares and kept.
    """
    rows, tops = [], []
    for row in epochs:
        counts = {bucket: round(row[bucket] * row["visited"]) for bucket in ("easy", "mixed", "hard")}
        counts["other"] = row["planned"] - sum(counts.values())
        counts["dropped"] = max(0, row["began"] - row["planned"])
        low = 0
        for bucket, count in counts.items():
            rows.append(_segment(row, bucket, low, low + count, f"{count}", False))
            low += count
        if row["kept"] is not None and len(epochs) <= FEW:
            tops.append({"key": _epoch_key(row), "low": low, "text": str(row["kept"])})
    y = alt.Y("low:Q", title="prompts", axis=alt.Axis(tickCount=5))
    label = alt.Chart(_data(tops)).mark_text(dy=-6, fontSize=10, color=_INK, aria=False)
    layers = [*_stack(rows, epochs, y, ("other", "dropped")), label.encode(x=_epoch_axis(epochs), y=y, text="text:N")]
    return alt.layer(*layers).properties(width=width, height=height)


def beside(*panels: Chart, same: bool = False) -> Chart:
    """Charts in a row, each with its own legend; `same` series: with one legend for all."""
    apart = alt.ScaleResolveMap(color="independent", shape="independent", strokeDash="independent")
    return alt.hconcat(*panels, spacing=30, resolve=alt.Undefined if same else alt.Resolve(scale=apart))


def seconds_bars(seconds: Mapping[str, float], wall: float, *, width: int) -> Chart:
    """Seconds by kind of work, a bar each, with the share of the wall time."""
    rows = [
        {"kind": kind, "seconds": value, "text": f"{value:,.1f} s" + (f" · {value / wall:.0%}" if wall else "")}
        for kind, value in seconds.items()
    ]
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y("kind:N", sort=list(seconds), title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=6)),
        x=alt.X("seconds:Q", title="seconds", axis=alt.Axis(tickCount=6)),
    )
    bars = base.mark_bar(color="#5b7fa6", height={"band": 0.68}, aria=False)
    texts = base.mark_text(align="left", dx=5, fontSize=11, color=_INK, aria=False).encode(text="text:N")
    return alt.layer(bars, texts).properties(width=width, height=alt.Step(24))


def _data(rows: Rows) -> alt.InlineData:
    """Rows as JSON text: Altair copies a chart's data at every step of building it, and text costs nothing to copy."""
    return alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json"))


def _last(rows: Rows, starts: Sequence[StageStart]) -> int:
    return max([4, *(int(row["updates"]) for row in rows), *(start.updates for start in starts)])


def _updates(last: int, *, titled: bool = True) -> alt.X:
    axis = alt.Axis(tickMinStep=1, tickCount=6, grid=False, format="d")
    scale = alt.Scale(domain=[0, last], nice=False, padding=8)
    return alt.X("updates:Q", title="policy updates" if titled else None, scale=scale, axis=axis)


def _boundaries(starts: Sequence[StageStart], last: int, x: alt.X, *, named: bool = True) -> list[alt.Chart]:
    """A rule where each stage but the first begins; named: each stage's name above the plot, where there is room."""
    rules = [{"updates": start.updates} for start in starts[1:]]
    ends = [*(start.updates for start in starts[1:]), last]
    names = [
        {"updates": start.updates, "text": start.label}
        for start, end in zip(starts, ends, strict=False)
        if named and (end - start.updates >= 0.15 * last or start is starts[-1])
    ]
    rule = alt.Chart(_data(rules)).mark_rule(color="#8a8a8a", strokeDash=[2, 3], aria=False)
    text = alt.Chart(_data(names)).mark_text(
        align="left", dx=3, fontSize=10, fontStyle="italic", color=_SOFT, aria=False
    )
    return [rule.encode(x=x), text.encode(x=x, y=alt.value(-9), text="text:N")]


def _curves(
    evaluations: Rows, names: Sequence[str], x: alt.X, *, spread: float, size: int, titled: bool = True
) -> list[alt.Chart]:
    """A line for each domain of `names`, its points moved sideways so that the intervals do not hide each other."""
    present = [name for name in names if any(row["domain"] == name for row in evaluations)]
    looks = _Looks([DOMAINS[name] for name in present])
    layers: list[alt.Chart] = []
    for place, name in enumerate(present):
        offset = spread * (place - (len(present) - 1) / 2)
        rows = [row for row in evaluations if row["domain"] == name]
        base = alt.Chart(_data(_told(rows, DOMAINS[name].label))).encode(x=x)
        line = base.mark_line(xOffset=offset, strokeWidth=1.8, aria=False)
        layers.append(line.encode(y=_pass("pass_at_1", titled), **looks.line()))
        layers += _intervals(base, looks, offset=offset, size=size, titled=titled)
    return layers


def _intervals(base: alt.Chart, looks: _Looks, *, offset: float, size: int, titled: bool = True) -> list[alt.Chart]:
    rule = base.mark_rule(xOffset=offset, strokeWidth=1.4, aria=False)
    point = base.mark_point(xOffset=offset, size=size, filled=True, opacity=1)
    return [
        rule.encode(y=_pass("low", titled), y2="high:Q", color=looks.colour()),
        point.encode(y=_pass("pass_at_1", titled), description="told:N", **looks.point()),
    ]


def _pass(field: str, titled: bool) -> alt.Y:
    title = "held-out pass@1" if titled else None
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))


def _told(evaluations: Rows, series: str) -> list[dict[str, Any]]:
    """Evaluations with the series that they belong to and what they say on hovering."""
    told = []
    for row in evaluations:
        what = series if row["class"] is None else f"{series}, class {row['class']}"
        value = f"{row['pass_at_1']:.3f}, interval {row['low']:.3f} to {row['high']:.3f}, {row['n']} problems"
        told.append({**row, "series": series, "told": f"{what}, after {row['updates']} updates: {value}"})
    return told


def _epoch_key(row: Mapping[str, Any]) -> str:
    return f"{row['stage']}|{row['epoch']}"


def _epoch_axis(epochs: Rows) -> alt.X:
    """One place per epoch, an empty one between the stages; below the first epoch of a stage stands the stage."""
    keys: list[str] = []
    for row in epochs:
        if keys and not keys[-1].startswith(f"{row['stage']}|"):
            keys.append("|")
        keys.append(_epoch_key(row))
    part = "split(datum.value, '|')"
    names = f"[{part}[1], {part}[1] === '0' ? 'stage ' + {part}[0] : '']"
    axis = alt.Axis(labelExpr=names, labelAngle=0, labelOverlap=True, ticks=False)
    return alt.X("key:N", title="epoch", scale=alt.Scale(domain=keys, paddingInner=0.12), axis=axis)


def _segment(row: Mapping[str, Any], bucket: str, low: float, high: float, text: str, written: bool) -> dict[str, Any]:
    label = BUCKETS[bucket].label
    return {
        "key": _epoch_key(row),
        "series": label,
        "low": low,
        "high": high,
        "text": text if written else "",
        "ink": "#ffffff" if bucket == "hard" else _INK,
        "told": f"stage {row['stage']}, epoch {row['epoch']}, {label}: {text}",
    }


def _stack(rows: Sequence[dict[str, Any]], epochs: Rows, y: alt.Y, named: Sequence[str]) -> list[alt.Chart]:
    """A bar for each segment, and what is written in its middle; the legend names some of the buckets."""
    shown = [row for row in rows if row["high"] > row["low"]]
    written = [{**row, "low": (row["low"] + row["high"]) / 2} for row in shown if row["text"]]
    scale = alt.Scale(domain=[s.label for s in BUCKETS.values()], range=[s.colour for s in BUCKETS.values()])
    present = [BUCKETS[name].label for name in named if any(row["series"] == BUCKETS[name].label for row in shown)]
    # An empty legend would make the picture infinitely large.
    box: dict[str, Any] = {"symbolType": "square", "symbolStrokeWidth": 0.5, "symbolStrokeColor": "#888888"}
    legend = alt.Legend(values=present, **box) if present else None
    x = _epoch_axis(epochs)
    bars = alt.Chart(_data(shown)).mark_bar(stroke="#888888", strokeWidth=0.5)
    texts = alt.Chart(_data(written)).mark_text(fontSize=10, aria=False)
    return [
        bars.encode(
            x=x, y=y, y2="high:Q", color=alt.Color("series:N", scale=scale, legend=legend), description="told:N"
        ),
        texts.encode(x=x, y=y, text="text:N", fill=alt.Fill("ink:N", scale=None)),
    ]
