"""Harm in later turns: the dialogues of an evaluation as lines of the page, a sentence a candidate, and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlhf_api.stages.evaluate import DIALOGUE
from rlhf_trainer.reporting import tables
from rlhf_trainer.reporting.axes import percent, points
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.tables import Cell, Line
from rlhf_trainer.reporting.turn_plot import TurnLine, draw

Facts = Mapping[str, Any]
LATE, ALONE, OF_TURN = f"{DIALOGUE}late_harm", f"{DIALOGUE}single", f"{DIALOGUE}harmful.turn"
CONTRASTS = {
    "last_turn_minus_turn1": "Last turn less turn 1",
    "last_turn_minus_single": "Last turn less the same asked alone",
}
VERBS = {"higher": "rose", "lower": "fell"}
TONES = {"higher": "bad", "lower": "good"}


def lines(evaluation: Json) -> list[Line]:
    """Harmful rate of each turn, late harm, and the last turn asked alone."""
    turns = range(1, len(evaluation["dialogues"]["reach"]) + 1)
    return [
        *(_line(f"Turn {turn}", "harmful answers", f"{OF_TURN}{turn}", evaluation) for turn in turns),
        _line("Late harm", "turned harmful later, of dialogues that were safe at turn 1", LATE, evaluation),
        _line("Last turn alone", "the same question without the turns before it", ALONE, evaluation),
    ]


def contrasts(evaluation: Json) -> list[tuple[str, list[Cell], int]]:
    """Of each model, what the turns before do to its last answer: name, a cell a contrast, dialogues."""
    models = evaluation["dialogues"]["models"]
    return [
        (model["name"], [tables.change(LATE, models[model["name"]][name]) for name in CONTRASTS], _rows(models, model))
        for model in evaluation["models"]
    ]


def plot(evaluation: Json) -> dict[str, Any] | None:
    """The plot of harmful rates by turn, with its labels; None: no dialogues were asked."""
    if not evaluation.get("dialogues"):
        return None
    turns = range(1, len(evaluation["dialogues"]["reach"]) + 1)
    drawn = [
        TurnLine(model["name"], [model["metrics"][f"{OF_TURN}{turn}"] for turn in turns])
        for model in evaluation["models"]
    ]
    return {
        "title": "Harmful answers by turn",
        "unit": f"share, with {percent(evaluation['confidence'])} intervals",
        "labels": [line.label for line in drawn],
        "svg": draw(drawn, named="Share of harmful answers by turn and model"),
    }


def judges(evaluation: Json) -> str:
    """The costs by any of which an answer is harmful."""
    return ", ".join(
        f"{judge['name']} ({'optimised in training' if judge['optimised'] else 'never optimised'})"
        for judge in evaluation["judges"]
        if judge["kind"] == "cost"
    )


def remarks(evaluation: Json) -> list[str]:
    """Prompts that lost their start, and answers without a score, of each model that has some."""
    sentences = []
    for name, facts in evaluation["dialogues"]["models"].items():
        if facts["cut_prompts"]:
            sentences.append(
                f"{facts['cut_prompts']} of {facts['answers']} histories of {name} were longer than prompts may be and "
                "lost their start."
            )
        if facts["without_score"]:
            sentences.append(
                f"{facts['without_score']} of {facts['answers']} answers of {name} in dialogues have no score: a dialogue "
                "with one before any harm counts as unknown."
            )
    return sentences


def sentences(evaluation: Facts, first: Facts, candidate: Facts, judged: str) -> list[dict[str, str]]:
    """What dialogues say of a candidate beside the baseline, `{"text", "tone"}`; none where none were asked."""
    if not evaluation.get("dialogues"):
        return []
    before, after = first["metrics"][LATE], candidate["metrics"][LATE]
    difference = candidate["differences"][LATE]
    if before["value"] is None or after["value"] is None or difference["value"] is None:
        text = (
            f"Harm in later turns cannot be compared for {candidate['name']}: no dialogue was safe at turn 1 and judged "
            "to its end with both models."
        )
        return [{"text": text, "tone": ""}]
    word = difference["decision"]
    verb = VERBS.get(word)
    claim = f"Harm in later turns {verb} for" if verb else "No change in harm in later turns is shown for"
    why = f", inconclusive: {difference['why']}" if difference.get("why") else ""
    text = (
        f"{claim} {candidate['name']}: of dialogues that were safe at turn 1, {percent(before['value'])} turned harmful later "
        f"with {first['name']} (n {before['n']}), {percent(after['value'])} with {candidate['name']} (n {after['n']}; "
        f"difference {_interval(difference)} on {difference['n']} that were safe with both){why}"
        f"{_history(evaluation, candidate)}; judged by {judged}."
    )
    return [{"text": text, "tone": TONES.get(word, "")}]


def _history(evaluation: Facts, candidate: Facts) -> str:
    """What the turns before the last do to a candidate's answer; nothing of a group, whose runs the table has."""
    measured = evaluation["dialogues"]["models"].get(candidate["name"])
    if measured is None:
        return ""
    contrast = measured["last_turn_minus_single"]
    if contrast["value"] is None:
        return "; whether the turns before do it is not known"
    if contrast["decision"] not in VERBS:
        return f"; to the last turn asked alone no difference is shown ({_interval(contrast)})"
    than = "more" if contrast["decision"] == "higher" else "less"
    return f"; its last turns are {than} often harmful than when asked alone ({_interval(contrast)})"


def _interval(difference: Facts) -> str:
    value = f"{points(difference['value'])} points"
    if difference["low"] is None:
        return value
    return f"{value}, interval {points(difference['low'])} to {points(difference['high'])}"


def _line(label: str, help_: str, name: str, evaluation: Json) -> Line:
    first, others = tables.baseline(evaluation), tables.candidates(evaluation)
    counts = {model["metrics"][name]["n"] for model in (first, *others)}

    def counted(cell: Cell, estimate: Facts) -> Cell:
        """With the dialogues it rests on, where models differ in them."""
        return cell if len(counts) == 1 else replace(cell, interval=f"{cell.interval}, n {estimate['n']}".lstrip(", "))

    pairs = [
        (
            counted(tables.cell(name, model["metrics"][name]), model["metrics"][name]),
            counted(tables.change(name, model["differences"][name]), model["differences"][name]),
        )
        for model in others
    ]
    baseline = counted(tables.cell(name, first["metrics"][name]), first["metrics"][name])
    return Line(label, help_, min(counts), baseline, tuple(pairs))


def _rows(models: Facts, model: Facts) -> int:
    return min(int(models[model["name"]][name]["n"]) for name in CONTRASTS)
