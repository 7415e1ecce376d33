"""Inline SVG: models on a plane of two measures, with an arrow from the baseline to each candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rlhf_trainer.reporting.axes import Scale, number, percent, ticks
from rlhf_trainer.reporting.plots import mark, svg, tag, text

WIDTH, HEIGHT = 420, 340
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 30, 48
HEAD = 9.0
"""Length of an arrow's head."""
APART = 7.0
"""What an arrow leaves free at each end, for the marks."""
Form = Callable[[float], str]
"""How numbers are written."""


@dataclass(frozen=True)
class Coordinate:
    """A measure of a model with its interval; None: no interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Position:
    """A model on the plane."""

    name: str
    kind: str
    """`before`, or `after0`, `after1`, ...: its colour and shape."""
    across: Coordinate
    up: Coordinate


def plane(positions: Sequence[Position], across: str, up: str, *, named: str, shares: bool = True) -> Markup:
    """The plane. Two shares have one scale, from 0, in percent; any other two measures one each.

    Args:
        positions: Baseline first.
        across: What the horizontal axis is.
        up: What the vertical axis is.
        named: For those who cannot see it.
        shares: Whether both are shares.
    """
    sides = [[position.across for position in positions], [position.up for position in positions]]
    x_marks, y_marks = [_share_marks(sides[0] + sides[1])] * 2 if shares else map(_marks, sides)
    form = percent if shares else number
    x = Scale(x_marks[0], x_marks[-1], LEFT, WIDTH - RIGHT)
    y = Scale(y_marks[0], y_marks[-1], HEIGHT - BOTTOM, TOP)
    body = [*_axes(x, y, x_marks, y_marks, form), text(LEFT, 14, f"↑ {up}", "tick", "start")]
    body.append(text(WIDTH - RIGHT, HEIGHT - 8, f"{across} →", "tick", "end"))
    first = positions[0]
    body += [_whiskers(position, x, y) for position in positions]
    for position in positions[1:]:
        start, end = ((x(p.across.value), y(p.up.value)) for p in (first, position))
        body.append(arrow(start, end))
    body += [_dot(position, x, y, across, up, form) for position in positions]
    return svg(WIDTH, HEIGHT, named, Markup("").join(body))


def kind(index: int) -> str:
    """Colour and shape of a model by its place, the baseline's 0."""
    return "before" if index == 0 else f"after{(index - 1) % 4}"


def _share_marks(coordinates: Sequence[Coordinate]) -> list[float]:
    most = max(_ends(coordinates))
    marks = [value for value in ticks(0.0, max(most, 0.05)) if value <= 1.0]
    return marks if marks[-1] >= most else [*marks, 1.0]


def _marks(coordinates: Sequence[Coordinate]) -> list[float]:
    ends = _ends(coordinates)
    return ticks(min(ends), max(ends))


def _ends(coordinates: Sequence[Coordinate]) -> list[float]:
    ends = [end for coordinate in coordinates for end in (coordinate.value, coordinate.low, coordinate.high)]
    return [end for end in ends if end is not None]


def _axes(x: Scale, y: Scale, x_marks: Sequence[float], y_marks: Sequence[float], form: Form) -> list[Markup]:
    parts = []
    for value in x_marks:
        parts.append(tag("line", {"class": "grid", "x1": x(value), "x2": x(value), "y1": y.end, "y2": y.start}))
        parts.append(text(x(value), y.start + 15, form(value), "tick", "middle"))
    for value in y_marks:
        parts.append(tag("line", {"class": "grid", "x1": x.start, "x2": x.end, "y1": y(value), "y2": y(value)}))
        parts.append(text(x.start - 6, y(value) + 3.5, form(value), "tick", "end"))
    return parts


def _whiskers(position: Position, x: Scale, y: Scale) -> Markup:
    at_x, at_y = x(position.across.value), y(position.up.value)
    kind, parts = f"whisker {position.kind}", []
    if position.across.low is not None and position.across.high is not None:
        ends = {"x1": x(position.across.low), "x2": x(position.across.high), "y1": at_y, "y2": at_y}
        parts.append(tag("line", {"class": kind, **ends}))
    if position.up.low is not None and position.up.high is not None:
        ends = {"x1": at_x, "x2": at_x, "y1": y(position.up.low), "y2": y(position.up.high)}
        parts.append(tag("line", {"class": kind, **ends}))
    return Markup("").join(parts)


def arrow(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    """An arrow between two points that leaves room for their marks; nothing where they are too close for one."""
    length = math.dist(start, end)
    if length < 2 * APART + HEAD:
        return Markup("")
    along = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)

    def at(distance: float, aside: float = 0.0) -> tuple[float, float]:
        return (
            round(start[0] + along[0] * distance - along[1] * aside, 2),
            round(start[1] + along[1] * distance + along[0] * aside, 2),
        )

    (x1, y1), tip, neck = at(APART), at(length - APART), at(length - APART - HEAD)
    corners = [tip, at(length - APART - HEAD, HEAD / 2), at(length - APART - HEAD, -HEAD / 2)]
    line = tag("line", {"class": "edge", "x1": x1, "y1": y1, "x2": neck[0], "y2": neck[1]})
    head: dict[str, object] = {
        "class": "arrow",
        "points": " ".join(f"{corner_x},{corner_y}" for corner_x, corner_y in corners),
    }
    return line + tag("polygon", head)


def _dot(position: Position, x: Scale, y: Scale, across: str, up: str, form: Form) -> Markup:
    title = f"{position.name}: {across} {_words(position.across, form)}, {up} {_words(position.up, form)}"
    drawn = mark(x(position.across.value), y(position.up.value), position.kind)
    return tag("g", {}, tag("title", {}, escape(title)) + drawn)


def _words(coordinate: Coordinate, form: Form) -> str:
    if coordinate.low is None or coordinate.high is None:
        return form(coordinate.value)
    return f"{form(coordinate.value)} ({form(coordinate.low)} to {form(coordinate.high)})"
