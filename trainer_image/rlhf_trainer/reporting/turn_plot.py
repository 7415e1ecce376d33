"""Inline SVG: shares by turn with their intervals, a line a model. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rlhf_trainer.reporting.axes import Scale, percent, ticks
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, svg, tag, text

APART = 5.0
"""Between the marks of two models at one turn."""
TURN_LABELS = 10
STYLES = 6
"""Colours and dashes of the style sheet."""


@dataclass(frozen=True)
class TurnLine:
    """One model's shares."""

    label: str
    estimates: Sequence[Json]
    """`{value, low, high, n}` of turn 1, 2, ...; value null: not measured."""


def draw(lines: Sequence[TurnLine], *, named: str) -> Markup:
    """The plot; a sentence instead where nothing was measured."""
    ends = [
        end
        for line in lines
        for estimate in line.estimates
        for end in (estimate["value"], estimate["high"])
        if end is not None
    ]
    if not ends:
        return Markup('<p class="empty">Nothing was measured.</p>')
    turns = max(len(line.estimates) for line in lines)
    marks = [mark for mark in ticks(0.0, min(1.0, max(*ends, 0.05))) if mark <= 1]
    margin = 14 + APART * len(lines) / 2
    across = Scale(1, max(2, turns), LEFT + margin, WIDTH - RIGHT - margin)
    down = Scale(0.0, max(marks[-1], max(ends)), HEIGHT - BOTTOM, TOP)
    body = [_grid(down, marks), _turn_axis(across, turns)]
    for index, line in enumerate(lines):
        body.append(_line(line, across, down, index % STYLES, (index - (len(lines) - 1) / 2) * APART))
    return svg(WIDTH, HEIGHT, named, Markup("").join(body))


def _grid(down: Scale, marks: Sequence[float]) -> Markup:
    parts = []
    for mark in marks:
        y = down(mark)
        parts.append(tag("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}))
        parts.append(text(LEFT - 6, y + 3.5, percent(mark), "tick", "end"))
    return Markup("").join(parts)


def _turn_axis(across: Scale, turns: int) -> Markup:
    y, every = HEIGHT - BOTTOM, -(-turns // TURN_LABELS)
    parts = [tag("line", {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})]
    parts += [text(across(turn), y + 15, str(turn), "tick", "middle") for turn in range(1, turns + 1, every)]
    parts.append(text(WIDTH - RIGHT, HEIGHT - 3, "turn", "tick", "end"))
    return Markup("").join(parts)


def _line(line: TurnLine, across: Scale, down: Scale, style: int, shift: float) -> Markup:
    points, marks = [], []
    for turn, estimate in enumerate(line.estimates, 1):
        if estimate["value"] is None:
            continue
        x, y = round(across(turn) + shift, 2), down(estimate["value"])
        points.append(f"{x},{y}")
        title = f"{line.label}, turn {turn}: {percent(estimate['value'])}"
        parts = []
        if estimate["low"] is not None and estimate["high"] is not None:
            ends = {"x1": x, "x2": x, "y1": down(estimate["low"]), "y2": down(estimate["high"])}
            parts.append(tag("line", {"class": f"whisker s{style}", **ends}))
            title += f" ({percent(estimate['low'])} to {percent(estimate['high'])}, n {estimate['n']})"
        parts.append(tag("circle", {"class": f"dot d{style}", "cx": x, "cy": y, "r": 3}))
        marks.append(tag("g", {}, Markup("").join([tag("title", {}, escape(title)), *parts])))
    return tag("polyline", {"class": f"line s{style}", "points": " ".join(points)}) + Markup("").join(marks)
