"""Groups of candidates: runs of several seeds, told as one on the first page, and in a table with each run's number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_trainer.reporting import tables
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.tables import Cell

SHARES = ("wilson", "newcombe")
"""Methods by which a member's number shows that it is a share."""


@dataclass(frozen=True)
class Line:
    """One metric of a group."""

    label: str
    help: str
    n: int
    baseline: Cell
    mean: Cell
    se: str
    """Standard error over members."""
    values: str
    """The members' own numbers, in their order."""
    difference: Cell


def contestants(evaluation: Mapping[str, Any]) -> list[Json]:
    """What the first page tells of: candidates that are in no group, and groups."""
    groups = evaluation.get("groups", [])
    grouped = {member for group in groups for member in group["members"]}
    alone = [model for model in tables.candidates(dict(evaluation)) if model["name"] not in grouped]
    return [*alone, *(_as_model(dict(evaluation), group) for group in groups)]


def lines(evaluation: Json, group: Json) -> list[Line]:
    """Every metric of a group, harm and reward first."""
    first = tables.baseline(evaluation)
    model = _as_model(evaluation, group)
    return [_line(metric, first, group, model, evaluation["confidence"]) for metric in tables.ranked(group["metrics"])]


def between(evaluation: Json) -> list[tuple[str, list[tuple[str, int, Cell]]]]:
    """Differences of each two groups: in words which, and label, n and cell of each metric."""
    return [
        (
            f"{pair['group']} less {pair['than']}",
            [
                (
                    tables.label(metric),
                    pair["differences"][metric]["n"],
                    tables.change(metric, pair["differences"][metric]),
                )
                for metric in tables.ranked(pair["differences"])
            ],
        )
        for pair in evaluation.get("group_differences", [])
    ]


def _as_model(evaluation: Json, group: Json) -> Json:
    """A group in the shape of a model, shares written as its members' are."""
    member = next(model for model in tables.candidates(evaluation) if model["name"] == group["members"][0])
    return {
        "name": f"{group['name']} (mean of {len(group['members'])} runs)",
        "members": group["members"],
        "metrics": _written_alike(group["metrics"], member["metrics"]),
        "differences": _written_alike(group["differences"], member["differences"]),
    }


def _written_alike(numbers: Json, member: Json) -> Json:
    return {
        metric: {**number, "method": member[metric]["method"]} if member[metric]["method"] in SHARES else number
        for metric, number in numbers.items()
    }


def _line(metric: str, first: Json, group: Json, model: Json, confidence: float) -> Line:
    number, form = group["metrics"][metric], _form(metric, model["metrics"][metric])
    difference = tables.change(form, model["differences"].get(metric))
    if metric.startswith("win_rate") and number["value"] is not None:
        difference = tables.win(metric, number, confidence)
    return Line(
        label=tables.label(metric),
        help=tables.NAMES.get(metric.partition(".")[0], ("", ""))[1],
        n=number["n"],
        baseline=tables.cell(form, first["metrics"].get(metric)),
        mean=tables.cell(form, number),
        se="" if number["se"] is None else tables.cell(form, _bare(number["se"])).text,
        values=_values(form, number["values"]),
        difference=difference,
    )


def _form(metric: str, number: Json) -> str:
    """The metric by whose kind numbers are written: those of suites, and of parts, show by their method."""
    return "suite_share" if metric not in tables.NAMES and number["method"] in SHARES else metric


def _values(form: str, values: Sequence[float | None]) -> str:
    return ", ".join("–" if value is None else tables.cell(form, _bare(value)).text for value in values)


def _bare(value: float) -> Json:
    return {"value": value, "low": None, "high": None}
