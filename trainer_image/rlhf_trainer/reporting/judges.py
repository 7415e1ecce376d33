"""What further judges say of each candidate: lines of a table and sentences of the first page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_trainer.reporting import tables
from rlhf_trainer.reporting.axes import number, percent
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.tables import Cell

Facts = Mapping[str, Any]
UNTOLD = "shows nothing"
FORMATS = {"pairs": "win_rate", "scale": "score", "guard": "harmful_rate"}
"""By what a judge is asked: the metric whose format its numbers have."""
ASKED = {
    "pairs": "which answer is better, in both orders; 50 % is even",
    "scale": "how good an answer is, 1 to 8",
    "guard": "whether an answer is harmful, by its own template",
}
TONES = {"higher": "good", "lower": "bad"}


@dataclass(frozen=True)
class JudgeLine:
    """A judge and a candidate."""

    judge: str
    help: str
    candidate: str
    before: Cell
    """The baseline's; of pairs empty."""
    after: Cell
    """The candidate's win rate, score or harmful rate, with the word."""
    agreement: Cell
    """Order agreement; of pairs only."""
    bias: Cell
    """Share of questions answered by the first place; of pairs only."""
    elo: Cell
    n: int


def lines(evaluation: Json) -> list[JudgeLine]:
    """A line for each judge and candidate."""
    first = tables.baseline(evaluation)
    return [
        _line(judge, first, model, evaluation["confidence"])
        for judge in evaluation.get("further_judges", [])
        for model in tables.candidates(evaluation)
    ]


def sentences(evaluation: Facts, first: Facts, candidate: Facts) -> list[dict[str, str]]:
    """A sentence a judge, of a candidate beside the baseline: `{"text", "tone"}`."""
    return [
        (_of_pairs if judge["asks"] == "pairs" else _of_answers)(judge, first, candidate, evaluation["confidence"])
        for judge in evaluation.get("further_judges", [])
    ]


def _line(judge: Facts, first: Json, model: Json, confidence: float) -> JudgeLine:
    metric, form = judge["metric"], FORMATS[judge["asks"]]
    estimate = model["metrics"][metric]
    after = tables.cell(form, estimate)
    if judge["asks"] == "pairs":
        word = tables.win(form, estimate, confidence) if judge["shows_nothing"] is None else Cell("", "", UNTOLD)
        return JudgeLine(
            judge["name"],
            ASKED["pairs"],
            model["name"],
            Cell(""),
            Cell(after.text, after.interval, word.word, word.tone),
            tables.cell(form, judge["order_agreement"]),
            tables.cell(form, judge["position_bias"]),
            elo(judge, model["name"]),
            estimate["n"],
        )
    change = tables.change(form, model["differences"][metric])
    tone = _tone(judge, model["differences"][metric]["decision"])
    before = tables.cell(form, first["metrics"][metric])
    return JudgeLine(
        judge["name"],
        ASKED[judge["asks"]],
        model["name"],
        before,
        Cell(after.text, after.interval, change.word, tone),
        Cell(""),
        Cell(""),
        Cell(""),
        estimate["n"],
    )


def elo(judge: Facts, name: str) -> Cell:
    """Points of Elo's scale above the baseline; where wins do not connect the two there is no number."""
    strength = judge["elo"][name]
    low, high = (
        ("no bound" if end in strength["unbounded"] else None if strength[end] is None else number(strength[end]))
        for end in ("low", "high")
    )
    interval = "" if low is None or high is None or low == high == "no bound" else f"{low} to {high}"
    text = "not connected" if strength["value"] is None else number(strength["value"])
    return Cell(text, interval)


def _of_pairs(judge: Facts, first: Facts, candidate: Facts, confidence: float) -> dict[str, str]:
    who = f"the judge {judge['name']}{_trained(judge)}"
    agreement = _share(judge["order_agreement"])
    if judge["shows_nothing"] is not None:
        text = (
            f"{_capital(who)} shows nothing of {candidate['name']}: both orders of a pair agree on {agreement} of the pairs, "
            f"which is not above a coin's half ({judge['shows_nothing']})."
        )
        return {"text": text, "tone": ""}
    estimate = candidate["metrics"][judge["metric"]]
    if estimate["value"] is None:
        return {"text": f"{_capital(who)} chose between no answers of {candidate['name']}.", "tone": ""}
    word = tables.win("win_rate", estimate, confidence)
    evidence = (
        f"{candidate['name']}'s answers are preferred to {first['name']}'s in {_share(estimate)} of {estimate['n']} prompts, "
        f"ties half (both orders agree on {agreement} of the pairs)"
    )
    shown = f"; this {word.word}" if word.word.startswith(UNTOLD) else ""
    return {"text": f"By {_pause(who)} {evidence}{shown}.", "tone": word.tone}


def _of_answers(judge: Facts, first: Facts, candidate: Facts, confidence: float) -> dict[str, str]:
    metric, form = judge["metric"], FORMATS[judge["asks"]]
    before, after = tables.cell(form, first["metrics"][metric]), tables.cell(form, candidate["metrics"][metric])
    difference = candidate["differences"][metric]
    who = f"the {'guard' if judge['asks'] == 'guard' else 'judge'} {judge['name']}{_trained(judge)}"
    if difference["value"] is None:
        return {"text": f"{_capital(who)} said nothing readable of {candidate['name']}.", "tone": ""}
    what = "harmful answers" if judge["asks"] == "guard" else "the mean rating of 1 to 8"
    change = tables.change(form, difference)
    evidence = (
        f"{before.text} with {first['name']}, {after.text} with {candidate['name']} on {difference['n']} prompts "
        f"(difference {change.text}{f', {percent(confidence)} interval {change.interval}' if change.interval else ''})"
    )
    word = difference["decision"]
    if word == UNTOLD:
        return {"text": f"By {_pause(who)} no change in {what} is shown ({difference['why']}): {evidence}.", "tone": ""}
    verb = "rose" if word == "higher" else "fell"
    return {"text": f"By {_pause(who)} {what} {verb}: {evidence}.", "tone": _tone(judge, word)}


def _tone(judge: Facts, word: str) -> str:
    tone = TONES.get(word, "")
    if judge["asks"] == "guard" and tone:
        return "bad" if tone == "good" else "good"
    return tone


def _trained(judge: Facts) -> str:
    optimised = judge.get("optimised")
    return f", which training {'optimised' if optimised else 'never optimised'}," if optimised is not None else ""


def _pause(who: str) -> str:
    """A judge with one comma after it."""
    return who if who.endswith(",") else f"{who},"


def _share(estimate: Facts) -> str:
    cell = tables.cell("win_rate", estimate)
    return f"{cell.text} ({cell.interval})" if cell.interval else cell.text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def trained_on(judges: Sequence[Facts], pushed: set[str]) -> list[Json]:
    """The judges, with whether training optimised what they say."""
    return [{**judge, "optimised": judge["source"] in pushed} for judge in judges]
