"""Inline SVG: curves, intervals, bars. Colours come from the page's style sheet by class, so that dark mode and paper
work; series differ by dash as well as by colour. Every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from rlhf_trainer.reporting.axes import Binned, Point, Scale, decades, number, shorten, ticks

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34
_LOG_FROM = 20.0
"""A positive series whose extremes are this far apart is drawn by logarithm where asked for."""


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    label: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Plot:
    """A small plot over steps."""

    title: str
    unit: str
    series: Sequence[Series]
    limits: dict[str, float] = field(default_factory=dict)
    """Horizontal lines by label: what a series must keep below."""
    log: bool = False
    """By logarithm, where the values allow and need it."""
    zero: bool = False
    """The axis begins at 0."""


def curves(plot: Plot) -> Markup:
    """The plot as SVG; a sentence instead where nothing was measured."""
    drawn = [(series.label, shorten(series.points)) for series in plot.series]
    values = [value for _, binned in drawn for value in (*binned.lows, *binned.highs) if value is not None]
    if not values:
        return Markup('<p class="empty">Nothing was measured.</p>')
    steps = [step for _, binned in drawn for step in binned.steps]
    across, down, marks = _scales(plot, values, steps)
    body = [_grid(down, marks), _step_axis(across, steps)]
    body += [_limit(down, across, label, value) for label, value in plot.limits.items()]
    for index, (_, binned) in enumerate(drawn):
        body.append(_line(binned, across, down, index % 6))
    named = f"{plot.title}: {'; '.join(_told(label, binned) for label, binned in drawn)}"
    return svg(WIDTH, HEIGHT, named, Markup("").join(body))


@dataclass(frozen=True)
class Interval:
    """A dot with whiskers."""

    name: str
    kind: str
    """`before`, or `after0`, `after1`, ...: its colour and shape."""
    value: float | None
    low: float | None
    high: float | None


def shares(groups: Sequence[tuple[str, Sequence[Interval]]], *, named: str) -> Markup:
    """Shares with their intervals on an axis from 0 to 100 %, a group under its label, a line for each of its entries."""
    across = Scale(0.0, 1.0, 14, 400)
    y, body = 4.0, []
    for label, entries in groups:
        body.append(text(14, y + 12, label, "label", "start"))
        y += 26
        for entry in entries:
            body.append(_interval(entry, across, y))
            y += 15
        y += 8
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    back = [tag("line", {"class": "grid", "x1": across(m), "x2": across(m), "y1": 4, "y2": round(y, 2)}) for m in marks]
    back += [text(across(mark), y + 15, f"{mark * 100:.0f}\u202f%", "tick", "middle") for mark in marks]
    return svg(420, round(y + 20), named, Markup("").join([*back, *body]))


def _interval(entry: Interval, across: Scale, y: float) -> Markup:
    if entry.value is None:
        return text(14, y + 4, f"{entry.name}: not measured", "tick", "start")
    title = f"{entry.name}: {number(entry.value * 100)} %"
    parts = []
    if entry.low is not None and entry.high is not None:
        ends = {"x1": across(entry.low), "x2": across(entry.high), "y1": y, "y2": y}
        parts.append(tag("line", {"class": f"whisker {entry.kind}", **ends}))
        title += f" ({number(entry.low * 100)} to {number(entry.high * 100)})"
    parts.append(mark(across(entry.value), y, entry.kind))
    return tag("g", {}, Markup("").join([tag("title", {}, escape(title)), *parts]))


def reliability(bins: Sequence[Mapping[str, float]], *, named: str) -> Markup:
    """Calibration: how often the scorer was right against how sure it was, a dot a bin, its area by n.

    On the diagonal a scorer is as often right as it says.
    """
    low, high = min(entry["low"] for entry in bins), max(entry["high"] for entry in bins)
    across, down = Scale(low, high, LEFT, WIDTH - RIGHT), Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    most = max(entry["n"] for entry in bins)
    body = [_grid(down, [0.0, 0.25, 0.5, 0.75, 1.0])]
    body += [text(across(mark), HEIGHT - BOTTOM + 15, number(mark), "tick", "middle") for mark in ticks(low, high)]
    body.append(text(WIDTH - RIGHT, HEIGHT - 3, "said probability", "tick", "end"))
    ends = {"x1": across(low), "y1": down(low), "x2": across(high), "y2": down(high)}
    body.append(tag("line", {"class": "limit", **ends}))
    for entry in bins:
        at = {
            "cx": across(entry["confidence"]),
            "cy": down(entry["right"]),
            "r": round(2 + 5 * (entry["n"] / most) ** 0.5, 2),
        }
        title = f"said {number(entry['confidence'])}, right {number(entry['right'])}, n {entry['n']:.0f}"
        body.append(tag("circle", {"class": "bubble", **at}, tag("title", {}, escape(title))))
    return svg(WIDTH, HEIGHT, named, Markup("").join(body))


def bars(parts: Sequence[tuple[str, float]], *, named: str) -> Markup:
    """One stacked bar of shares, in order; labels belong to the legend beside it."""
    total = sum(value for _, value in parts)
    if total <= 0:
        return Markup('<p class="empty">Nothing was measured.</p>')
    body, at = [], 0.0
    for index, (label, value) in enumerate(parts):
        width = round(value / total * 600, 2)
        title = tag("title", {}, escape(f"{label}: {value / total:.0%}"))
        body.append(
            tag("rect", {"class": f"fill{index % 8}", "x": round(at, 2), "y": 0, "width": width, "height": 18}, title)
        )
        at += width
    return Markup(
        '<svg class="bar" viewBox="0 0 600 18" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(named, Markup("").join(body))


def _scales(plot: Plot, values: list[float], steps: list[float]) -> tuple[Scale, Scale, list[float]]:
    span = [*values, *plot.limits.values()] + ([0.0] if plot.zero else [])
    low, high = min(span), max(span)
    log = plot.log and low > 0 and high / low >= _LOG_FROM
    marks = decades(low, high) if log else ticks(low, high)
    first, last = min(steps), max(steps)
    across = Scale(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    return across, Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, log), marks


def _grid(down: Scale, marks: list[float]) -> Markup:
    every = -(-len(marks) // 6)
    parts = []
    for mark in marks[::every]:
        y = down(mark)
        parts.append(tag("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}))
        parts.append(text(LEFT - 6, y + 3.5, number(mark), "tick", "end"))
    return Markup("").join(parts)


def _step_axis(across: Scale, steps: list[float]) -> Markup:
    first, last = min(steps), max(steps)
    apart = (last - first) * 0.16
    inner = [mark for mark in ticks(first, last, 4) if first + apart < mark < last - apart and mark == int(mark)]
    inner = [first, *inner] + ([last] if last > first else [])
    y = HEIGHT - BOTTOM
    parts = [tag("line", {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})]
    parts += [text(across(mark), y + 15, number(mark, 6), "tick", "middle") for mark in inner]
    parts.append(text(WIDTH - RIGHT, HEIGHT - 3, "step", "tick", "end"))
    return Markup("").join(parts)


def _limit(down: Scale, across: Scale, label: str, value: float) -> Markup:
    y = down(value)
    line = tag("line", {"class": "limit", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})
    above = y - 5 if y > TOP + 14 else y + 13
    return line + text(across.end, above, label, "tick limit-label", "end")


def _line(binned: Binned, across: Scale, down: Scale, index: int) -> Markup:
    parts = []
    runs = _runs(binned)
    for run in runs:
        if binned.size > 1:
            edge = [f"{across(binned.steps[i])},{down(binned.highs[i] or 0.0)}" for i in run]
            edge += [f"{across(binned.steps[i])},{down(binned.lows[i] or 0.0)}" for i in reversed(run)]
            parts.append(tag("polygon", {"class": f"band{index}", "points": " ".join(edge)}))
        path = " ".join(f"{across(binned.steps[i])},{down(binned.means[i] or 0.0)}" for i in run)
        parts.append(tag("polyline", {"class": f"line s{index}", "points": path}))
    measured = [i for run in runs for i in run]
    dots = measured if len(measured) <= 30 else measured[-1:]
    for i in dots:
        at = {"cx": across(binned.steps[i]), "cy": down(binned.means[i] or 0.0)}
        parts.append(tag("circle", {"class": f"dot d{index}", "r": 2.6 if i == measured[-1] else 1.6, **at}))
    return Markup("").join(parts)


def _runs(binned: Binned) -> list[list[int]]:
    """Indices of neighbouring points that have values."""
    runs: list[list[int]] = [[]]
    for index, value in enumerate(binned.means):
        if value is not None:
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _told(label: str, binned: Binned) -> str:
    measured = [value for value in binned.means if value is not None]
    return f"{label} from {number(measured[0])} to {number(measured[-1])}" if measured else f"{label} not measured"


def mark(x: float, y: float, kind: str) -> Markup:
    """A model's dot: a circle for the baseline, another shape for each candidate."""
    if kind == "before":
        return tag("circle", {"class": "mark before", "cx": x, "cy": y, "r": 5})
    if kind == "after1":
        return tag(
            "rect", {"class": "mark after1", "x": round(x - 4.5, 2), "y": round(y - 4.5, 2), "width": 9, "height": 9}
        )
    return tag("path", {"class": f"mark {kind}", "d": f"M{x - 6} {y} L{x} {y - 6} L{x + 6} {y} L{x} {y + 6} Z"})


def text(x: float, y: float, content: str, kind: str, anchor: str) -> Markup:
    """A line of text."""
    return tag("text", {"class": kind, "x": x, "y": round(y, 2), "text-anchor": anchor}, escape(content))


def tag(name: str, attributes: dict[str, object], inside: Markup | None = None) -> Markup:
    """An element; every attribute is escaped."""
    rendered = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in attributes.items())
    if inside is None:
        return Markup("<{}{}/>").format(name, rendered)
    return Markup("<{}{}>{}</{}>").format(name, rendered, inside, name)


def svg(width: int, height: int, named: str, body: Markup) -> Markup:
    """A drawing with its name for those who cannot see it."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(width, height, named, body)
