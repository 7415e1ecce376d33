"""Inline SVG: curves, intervals, bars. Colours come from the page's style sheet by class, so that dark mode and paper
work; series differ by dash as well as by colour. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
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
    drawn = [(one.label, shorten(one.points)) for one in plot.series]
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
    return _svg(WIDTH, HEIGHT, named, Markup("").join(body))


def intervals(
    rows: Sequence[tuple[str, str, float | None, float | None, float | None]],
    *,
    percent: bool,
    reference: float | None = None,
    bounds: tuple[float, float] | None = None,
    named: str,
) -> Markup:
    """Dots with whiskers, a row each: label, class (`before` or `after`), value, low, high.

    `reference` draws a vertical line; `bounds` fixes the axis.
    """
    known = [part for row in rows for part in row[2:] if part is not None]
    if not known:
        return Markup('<p class="empty">Nothing was measured.</p>')
    known += [reference] if reference is not None else []
    marks = ticks(*(bounds or (min(known), max(known))))
    across = Scale(marks[0], marks[-1], 150, 500)
    height = 26 * len(rows) + 30
    body = []
    for mark in marks:
        at, label = across(mark), f"{mark * 100:.0f} %" if percent else number(mark)
        body.append(_tag("line", {"class": "grid", "x1": at, "x2": at, "y1": 4, "y2": height - 24}))
        body.append(_text(at, height - 8, label, "tick", "middle"))
    if reference is not None:
        at = across(reference)
        body.append(_tag("line", {"class": "limit", "x1": at, "x2": at, "y1": 4, "y2": height - 24}))
    for index, (label, kind, value, low, high) in enumerate(rows):
        y = 18 + 26 * index
        body.append(_text(142, y + 4, _short(label, 24), "label", "end"))
        if low is not None and high is not None:
            body.append(
                _tag("line", {"class": f"whisker {kind}", "x1": across(low), "x2": across(high), "y1": y, "y2": y})
            )
        if value is not None:
            body.append(_mark(across(value), y, kind))
        else:
            body.append(_text(154, y + 4, "not measured", "tick", "start"))
    return _svg(512, height, named, Markup("").join(body))


def bars(parts: Sequence[tuple[str, float]], *, named: str) -> Markup:
    """One stacked bar of shares, in order; labels belong to the legend beside it."""
    total = sum(value for _, value in parts)
    if total <= 0:
        return Markup('<p class="empty">Nothing was measured.</p>')
    body, at = [], 0.0
    for index, (label, value) in enumerate(parts):
        width = round(value / total * 600, 2)
        title = _tag("title", {}, escape(f"{label}: {value / total:.0%}"))
        body.append(
            _tag("rect", {"class": f"fill{index % 8}", "x": round(at, 2), "y": 0, "width": width, "height": 18}, title)
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
        parts.append(_tag("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}))
        parts.append(_text(LEFT - 6, y + 3.5, number(mark), "tick", "end"))
    return Markup("").join(parts)


def _step_axis(across: Scale, steps: list[float]) -> Markup:
    first, last = min(steps), max(steps)
    inner = [mark for mark in ticks(first, last, 4) if first <= mark <= last and mark == int(mark)] or [first]
    y = HEIGHT - BOTTOM
    parts = [_tag("line", {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})]
    parts += [_text(across(mark), y + 15, number(mark, 6), "tick", "middle") for mark in inner]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 3, "step", "tick", "end"))
    return Markup("").join(parts)


def _limit(down: Scale, across: Scale, label: str, value: float) -> Markup:
    y = down(value)
    line = _tag("line", {"class": "limit", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})
    above = y - 5 if y > TOP + 14 else y + 13
    return line + _text(across.end, above, label, "tick limit-label", "end")


def _line(binned: Binned, across: Scale, down: Scale, index: int) -> Markup:
    parts = []
    runs = _runs(binned)
    for run in runs:
        if binned.size > 1:
            edge = [f"{across(binned.steps[i])},{down(binned.highs[i] or 0.0)}" for i in run]
            edge += [f"{across(binned.steps[i])},{down(binned.lows[i] or 0.0)}" for i in reversed(run)]
            parts.append(_tag("polygon", {"class": f"band{index}", "points": " ".join(edge)}))
        path = " ".join(f"{across(binned.steps[i])},{down(binned.means[i] or 0.0)}" for i in run)
        parts.append(_tag("polyline", {"class": f"line s{index}", "points": path}))
    measured = [i for run in runs for i in run]
    dots = measured if len(measured) <= 30 else measured[-1:]
    for i in dots:
        at = {"cx": across(binned.steps[i]), "cy": down(binned.means[i] or 0.0)}
        parts.append(_tag("circle", {"class": f"dot d{index}", "r": 2.6 if i == measured[-1] else 1.6, **at}))
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
    known = [value for value in binned.means if value is not None]
    return f"{label} from {number(known[0])} to {number(known[-1])}" if known else f"{label} not measured"


def _mark(x: float, y: float, kind: str) -> Markup:
    if kind == "before":
        return _tag("circle", {"class": "mark before", "cx": x, "cy": y, "r": 5})
    return _tag("path", {"class": f"mark {kind}", "d": f"M{x - 6} {y} L{x} {y - 6} L{x + 6} {y} L{x} {y + 6} Z"})


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return _tag("text", {"class": kind, "x": x, "y": round(y, 2), "text-anchor": anchor}, escape(text))


def _tag(name: str, attributes: dict[str, object], inside: Markup | None = None) -> Markup:
    given = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in attributes.items())
    if inside is None:
        return Markup("<{}{}/>").format(name, given)
    return Markup("<{}{}>{}</{}>").format(name, given, inside, name)


def _svg(width: int, height: int, named: str, body: Markup) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(width, height, named, body)
