"""Rule-based rewards in the report: errors by response type, weights, centred histograms, the grader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_trainer.reporting.axes import number, percent
from rlhf_trainer.reporting.collect import StageFolder
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.histogram import histogram

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


def histograms(kind: Json, name: str) -> list[Json]:
    """A figure a method, for the page's plots."""
    if kind["pairs"] is None:
        return []
    return [
        {
            "title": title,
            "unit": "",
            "labels": list(kind["histograms"][method]["counts"]),
            "svg": histogram(
                kind["histograms"][method],
                named=f"{title}, {name}: centred scores by class",
                unit="score less its group's mean",
                counted="completions",
            ),
        }
        for method, title in METHODS.items()
    ]
