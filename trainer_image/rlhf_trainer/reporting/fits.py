"""Rule-based rewards in the report: errors by response type, weights, centred histograms, the grader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from rlhf_trainer.reporting.axes import Scale, number, percent, ticks
from rlhf_trainer.reporting.collect import StageFolder
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, svg, tag, text

METHODS = {"rm": "Reward model", "rbr": "Rules", "total": "Both"}


def fits(stages: Sequence[StageFolder]) -> list[Json]:
    """What every `rules` stage found."""
    return [{"stage": stage.planned.name, **stage.fit} for stage in stages if stage.fit is not None]


def errors(kind: Json) -> list[Json]:
    """A line a method: its name, error on fitted pairs, held-out error, mean and standard error over splits."""
    if kind["pairs"] is None:
        return []
    return [
        {
            "name": name,
            "train": kind["train"][method],
            "heldout": kind["heldout"][method],
            "splits": spread(kind["seeds"]["heldout"][method]),
        }
        for method, name in METHODS.items()
    ]


def spread(estimate: Mapping[str, Any], share: bool = True) -> str:
    """Mean and standard error in words."""
    if estimate["mean"] is None:
        return "not measured"
    form = percent if share else number
    se = "" if estimate["se"] is None else f" ± {form(estimate['se'])}"
    return f"{form(estimate['mean'])}{se} (n {estimate['n']})"


def histogram(drawn: Mapping[str, Any], *, named: str) -> Markup:
    """Centred scores, a stepped line a class: shares of its completions by bin."""
    edges, counts = drawn["edges"], drawn["counts"]
    shares = {name: [count / max(1, sum(by_bin)) for count in by_bin] for name, by_bin in counts.items()}
    most = max((share for by_bin in shares.values() for share in by_bin), default=1.0) or 1.0
    across, down = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT), Scale(0.0, most, HEIGHT - BOTTOM, TOP)
    body = [
        tag("line", {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": HEIGHT - BOTTOM, "y2": HEIGHT - BOTTOM}),
        tag("line", {"class": "limit", "x1": across(0.0), "x2": across(0.0), "y1": TOP, "y2": HEIGHT - BOTTOM}),
    ]
    marks = [mark for mark in ticks(edges[0], edges[-1]) if edges[0] <= mark <= edges[-1]]
    body += [text(across(mark), HEIGHT - BOTTOM + 15, number(mark), "tick", "middle") for mark in marks]
    body.append(text(WIDTH - RIGHT, HEIGHT - 3, "score less its group's mean", "tick", "end"))
    body += [text(LEFT - 6, down(mark) + 3.5, percent(mark), "tick", "end") for mark in (0.0, most)]
    for index, (name, by_bin) in enumerate(shares.items()):
        steps = [
            f"{across(edge)},{down(share)}"
            for bin_index, share in enumerate(by_bin)
            for edge in (edges[bin_index], edges[bin_index + 1])
        ]
        title = tag("title", {}, escape(f"{name}: {sum(counts[name])} completions"))
        body.append(tag("polyline", {"class": f"line s{index % 6}", "points": " ".join(steps)}, title))
    return svg(WIDTH, HEIGHT, named, Markup("").join(body))


def histograms(kind: Json, name: str) -> list[Json]:
    """A figure a method, for the page's plots."""
    if kind["pairs"] is None:
        return []
    return [
        {
            "title": title,
            "unit": "",
            "labels": list(kind["histograms"][method]["counts"]),
            "svg": histogram(kind["histograms"][method], named=f"{title}, {name}: centred scores by class"),
        }
        for method, title in METHODS.items()
    ]
