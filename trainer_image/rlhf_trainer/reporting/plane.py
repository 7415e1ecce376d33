"""Inline SVG: models on a plane of two shares that should both be low, with an arrow from the baseline to each candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rlhf_trainer.reporting.axes import Scale, percent, ticks
from rlhf_trainer.reporting.plots import mark, svg, tag, text

WIDTH, HEIGHT = 420, 340
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 30, 48
HEAD = 9.0
"""Length of an arrow's head."""
APART = 7.0
"""What an arrow leaves free at each end, for the marks."""


@dataclass(frozen=True)
class Share:
    """A share with its interval; None: no interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Position:
    """A model on the plane."""

    name: str
    kind: str
    """`before`, or `after0`, `after1`, ...: its colour and shape."""
    across: Share
    up: Share


def plane(positions: Sequence[Position], across: str, up: str, *, named: str) -> Markup:
    """The plane.

    Args:
        positions: Baseline first.
        across: What the horizontal axis is.
        up: What the vertical axis is.
        named: For those who cannot see it.
    """
    shares = [share for position in positions for share in (position.across, position.up)]
    most = max(share.value if share.high is None else share.high for share in shares)
    marks = [value for value in ticks(0.0, max(most, 0.05)) if value <= 1.0]
    if marks[-1] < most:
        marks.append(1.0)
    x, y = Scale(0.0, marks[-1], LEFT, WIDTH - RIGHT), Scale(0.0, marks[-1], HEIGHT - BOTTOM, TOP)
    body = [*_axes(x, y, marks), text(LEFT, 14, f"↑ {up}", "tick", "start")]
    body.append(text(WIDTH - RIGHT, HEIGHT - 8, f"{across} →", "tick", "end"))
    first = positions[0]
    body += [_whiskers(position, x, y) for position in positions]
    for position in positions[1:]:
        start, end = ((x(p.across.value), y(p.up.value)) for p in (first, position))
        body.append(arrow(start, end))
    body += [_dot(position, x, y, across, up) for position in positions]
    return svg(WIDTH, HEIGHT, named, Markup("").join(body))


def _axes(x: Scale, y: Scale, marks: Sequence[float]) -> list[Markup]:
    parts = []
    for value in marks:
        parts.append(tag("line", {"class": "grid", "x1": x(value), "x2": x(value), "y1": y.end, "y2": y.start}))
        parts.append(tag("line", {"class": "grid", "x1": x.start, "x2": x.end, "y1": y(value), "y2": y(value)}))
        parts.append(text(x(value), y.start + 15, percent(value), "tick", "middle"))
        parts.append(text(x.start - 6, y(value) + 3.5, percent(value), "tick", "end"))
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


def _dot(position: Position, x: Scale, y: Scale, across: str, up: str) -> Markup:
    title = f"{position.name}: {across} {_words(position.across)}, {up} {_words(position.up)}"
    drawn = mark(x(position.across.value), y(position.up.value), position.kind)
    return tag("g", {}, tag("title", {}, escape(title)) + drawn)


def _words(share: Share) -> str:
    if share.low is None or share.high is None:
        return percent(share.value)
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"
