"""Histograms over each other, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from rlhf_trainer.reporting.axes import Scale, number, percent, ticks
from rlhf_trainer.reporting.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, svg, tag, text


def histogram(drawn: Mapping[str, Any], *, named: str, unit: str, counted: str) -> Markup:
    """A stepped line a name: shares of its scores by bin, and a line at 0 where the bins have it.

    Args:
        drawn: `{edges, counts: {name: [of each bin]}}`.
        named: For those who cannot see it.
        unit: Below the axis.
        counted: What is counted: `answers`.
    """
    edges, counts = drawn["edges"], drawn["counts"]
    shares = {name: [count / max(1, sum(by_bin)) for count in by_bin] for name, by_bin in counts.items()}
    most = max((share for by_bin in shares.values() for share in by_bin), default=1.0) or 1.0
    across, down = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT), Scale(0.0, most, HEIGHT - BOTTOM, TOP)
    body = [
        tag("line", {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": HEIGHT - BOTTOM, "y2": HEIGHT - BOTTOM}),
    ]
    if edges[0] <= 0 <= edges[-1]:
        zero = {"x1": across(0.0), "x2": across(0.0), "y1": TOP, "y2": HEIGHT - BOTTOM}
        body.append(tag("line", {"class": "limit", **zero}))
    marks = [mark for mark in ticks(edges[0], edges[-1]) if edges[0] <= mark <= edges[-1]]
    body += [text(across(mark), HEIGHT - BOTTOM + 15, number(mark), "tick", "middle") for mark in marks]
    body.append(text(WIDTH - RIGHT, HEIGHT - 3, unit, "tick", "end"))
    body += [text(LEFT - 6, down(mark) + 3.5, percent(mark), "tick", "end") for mark in (0.0, most)]
    for index, (name, by_bin) in enumerate(shares.items()):
        steps = [
            f"{across(edge)},{down(share)}"
            for bin_index, share in enumerate(by_bin)
            for edge in (edges[bin_index], edges[bin_index + 1])
        ]
        title = tag("title", {}, escape(f"{name}: {sum(counts[name])} {counted}"))
        body.append(tag("polyline", {"class": f"line s{index % 6}", "points": " ".join(steps)}, title))
    return svg(WIDTH, HEIGHT, named, Markup("").join(body))
