"""What models still can do: the tasks of an evaluation as lines of the page and as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_api.stages.evaluate import SUITE
from rlhf_trainer.reporting import own_choices, tables
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.tables import Cell, Line

Facts = Mapping[str, Any]
SHARE, MEAN = "suite_share", "suite_mean"
"""How values of a suite are written: right or wrong a document, or any number."""
TONES = {"higher": {True: "good", False: "bad"}, "lower": {True: "bad", False: "good"}}
"""By what a difference says, then by whether higher is better."""


def lines(evaluation: Json) -> list[tuple[Json, list[Line]]]:
    """Each suite with a line a metric, the one that stands for it first."""
    first, others = tables.baseline(evaluation), tables.candidates(evaluation)
    return [
        (
            suite,
            [
                _line(metric, direction == "higher", _name(suite, metric), first, others)
                for metric, direction in suite["metrics"].items()
            ]
            + own_choices.lines(evaluation, suite["name"]),
        )
        for suite in evaluation.get("suites", [])
    ]


def sentences(evaluation: Facts, first: Facts, candidate: Facts) -> list[dict[str, str]]:
    """A sentence a suite, of a candidate beside the baseline: `{"text", "tone"}`."""
    able = [_sentence(suite, first, candidate) for suite in evaluation.get("suites", [])]
    return able + own_choices.sentences(evaluation, first, candidate)


def _name(suite: Facts, metric: str) -> str:
    several = len(suite["metrics"]) > 1
    return f"{SUITE}{suite['name']}.{metric}" if several else f"{SUITE}{suite['name']}"


def _line(metric: str, higher: bool, name: str, first: Json, others: Sequence[Json]) -> Line:
    pairs = [(_cell(model["metrics"][name]), _change(model["differences"][name], higher)) for model in others]
    help_ = "higher is better" if higher else "lower is better"
    return Line(metric, help_, first["metrics"][name]["n"], _cell(first["metrics"][name]), tuple(pairs))


def _cell(estimate: Facts) -> Cell:
    return tables.cell(SHARE if estimate["method"] == "wilson" else MEAN, estimate)


def _change(difference: Facts, higher: bool) -> Cell:
    cell = tables.change(SHARE if difference["method"] == "newcombe" else MEAN, difference)
    tone = TONES.get(difference.get("decision") or "", {}).get(higher, "")
    return Cell(cell.text, cell.interval, cell.word, tone)


def _sentence(suite: Facts, first: Facts, candidate: Facts) -> dict[str, str]:
    name = _name(suite, suite["primary"])
    higher = suite["metrics"][suite["primary"]] == "higher"
    before, after = _cell(first["metrics"][name]), _cell(candidate["metrics"][name])
    change = _change(candidate["differences"][name], higher)
    evidence = (
        f"{before.text} to {after.text} on {suite['documents']} documents (difference {change.text}, {change.interval})"
    )
    what = f"{suite['primary']} of {suite['name']}"
    word = candidate["differences"][name]["decision"]
    if word not in TONES:
        return {"text": f"No change in {what} is shown for {candidate['name']}: {evidence}.", "tone": ""}
    verb = "rose" if word == "higher" else "fell"
    return {"text": f"The {what} {verb} for {candidate['name']}: {evidence}.", "tone": change.tone}
