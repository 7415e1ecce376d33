"""How far models' own confidence on multiple-choice tasks fits how right they are: lines of the page and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_api.stages.evaluate import SUITE
from rlhf_trainer.reporting import tables
from rlhf_trainer.reporting.axes import percent, points
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.tables import Cell, Line

Facts = Mapping[str, Any]
SHARE = "suite_share"
"""How the numbers are written."""


def lines(evaluation: Json, suite: str) -> list[Line]:
    """Confidence and calibration error of a suite that measured them."""
    return [
        line
        for entry in evaluation.get("calibration", [])
        if entry["suite"] == suite
        for line in _of(entry, evaluation)
    ]


def sentences(evaluation: Facts, first: Facts, candidate: Facts) -> list[dict[str, str]]:
    """A sentence for each suite on which a candidate's calibration differs from the baseline's: `{"text", "tone"}`."""
    return [
        _sentence(entry, first["name"], candidate)
        for entry in evaluation.get("calibration", [])
        if candidate["differences"][f"{SUITE}{entry['suite']}.ece"]["decision"] in ("higher", "lower")
    ]


def _of(entry: Facts, evaluation: Json) -> list[Line]:
    chance = ", ".join(
        f"{percent(of_model['by_chance'])} for {name}"
        for name, of_model in entry["models"].items()
        if of_model["by_chance"] is not None
    )
    helps = {
        "confidence": "mean probability of the option that the model chose, among all options",
        "ece": f"expected calibration error, {entry['bins']} bins of equal width; lower is better. "
        f"By chance a calibrated model shows {chance}",
    }
    first, others = tables.baseline(evaluation), tables.candidates(evaluation)
    rows = []
    for metric, help_ in helps.items():
        name = f"{SUITE}{entry['suite']}.{metric}"
        pairs = [
            (tables.cell(SHARE, model["metrics"][name]), _change(model["differences"][name], metric))
            for model in others
        ]
        estimate = first["metrics"][name]
        rows.append(Line(metric, help_, estimate["n"], tables.cell(SHARE, estimate), tuple(pairs)))
    return rows


def _change(difference: Facts, metric: str) -> Cell:
    cell = tables.change(SHARE, difference)
    tones = {"higher": "bad", "lower": "good"} if metric == "ece" else {}
    return Cell(cell.text, cell.interval, cell.word, tones.get(difference.get("decision") or "", ""))


def _sentence(entry: Facts, baseline: str, candidate: Facts) -> dict[str, str]:
    name, difference = candidate["name"], candidate["differences"][f"{SUITE}{entry['suite']}.ece"]
    before, after = entry["models"][baseline], entry["models"][name]
    worse = difference["decision"] == "higher"
    low, high = points(difference["low"]), points(difference["high"])
    text = (
        f"On {entry['suite']}, {name} knows {'less' if worse else 'more'} well than {baseline} how right its own choices are: "
        f"its calibration error is {percent(after['ece']['value'])} against {percent(before['ece']['value'])} (difference "
        f"{points(difference['value'])} points, interval {low} to {high}, {entry['documents']} documents); it is "
        f"{percent(after['confidence']['value'])} sure and {percent(after['right']['value'])} right."
    )
    return {"text": text, "tone": "bad" if worse else "good"}
