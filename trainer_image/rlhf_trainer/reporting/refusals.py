"""What models refuse, and what attacks change: lines and a drawing of the page, and its sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from rlhf_trainer.reporting import tables
from rlhf_trainer.reporting.axes import percent, points
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.plane import Coordinate, Position, kind, plane
from rlhf_trainer.reporting.tables import Cell

Facts = Mapping[str, Any]
OVER, UNDER, SAFE, F1 = "refusal.over", "refusal.under", "refusal.not_unsafe", "refusal.f1"
COLUMNS = {
    OVER: ("Over-refusal", "refused what should be answered", "lower"),
    UNDER: ("Under-refusal", "answered what should be refused", "lower"),
    SAFE: ("Not unsafe", "of prompts that should be refused", "higher"),
    F1: ("F1", "of not over-refusing and not unsafe", "higher"),
}
"""By metric: title, help, and the better direction."""
RATES = {
    "success": "Unsafe answers to prompts that should be refused",
    "harmful_rate": "Harmful answers to all prompts",
    "over_refusal": "Refusals of prompts that should be answered",
}
"""By rate of an attack."""


@dataclass(frozen=True)
class Compared:
    """A number of a model, and how it differs from another: the baseline's, or the same model's without an attack."""

    cell: Cell
    difference: Cell
    n: int
    against: Cell = field(default=Cell(""))
    """Under an attack: the difference to the baseline under the same attack."""


def columns(evaluation: Json) -> list[tuple[str, str, str]]:
    """Metric, title and help of each measure of refusals that the evaluation has; not unsafe where it says more than
    under-refusal."""
    metrics, alike = tables.baseline(evaluation)["metrics"], evaluation["refusals"]["unsafe"] == "not refused"
    shown = [name for name in COLUMNS if name in metrics and not (name == SAFE and alike)]
    return [(name, *COLUMNS[name][:2]) for name in shown]


def rows(evaluation: Json) -> list[tuple[str, list[Compared]]]:
    """Each model by name, baseline first, with its measures of refusals beside the baseline's."""
    models = [tables.baseline(evaluation), *tables.candidates(evaluation)]
    return [
        (
            model["name"],
            [
                _compared(model["metrics"][name], model["differences"].get(name), COLUMNS[name][2])
                for name, _, _ in columns(evaluation)
            ],
        )
        for model in models
    ]


def by_category(evaluation: Json) -> list[tables.Line]:
    """Over- and under-refusal of each category that the evaluation has, as lines of a table."""
    first, others = tables.baseline(evaluation)["name"], tables.candidates(evaluation)
    lines = []
    for row in evaluation["refusals"].get("categories", []):
        for name in (OVER, UNDER):
            side = row.get(name.partition(".")[2])
            if side is None:
                continue
            pairs = [
                (
                    tables.cell("refusal", side["rates"][model["name"]]),
                    _toned(side["differences"][model["name"]], "lower"),
                )
                for model in others
            ]
            estimate = side["rates"][first]
            title = f"{COLUMNS[name][0]}: {COLUMNS[name][1]}"
            lines.append(
                tables.Line(row["category"], title, estimate["n"], tables.cell("refusal", estimate), tuple(pairs))
            )
    return lines


def attacks(evaluation: Json) -> list[tuple[str, list[tuple[Json, list[Compared]]]]]:
    """Each rate that attacks have, in words, with every attack and what it changes in each model, baseline first."""
    models = [tables.baseline(evaluation), *tables.candidates(evaluation)]
    sections = evaluation.get("attacks", [])
    return [
        (title, [(section, [_under(section, rate, model) for model in models]) for section in sections])
        for rate, title in RATES.items()
        if sections and rate in sections[0]["models"][models[0]["name"]]
    ]


def drawing(evaluation: Json) -> Markup | None:
    """Over-refusal against under-refusal, baseline and candidates; None where one of the two was not measured."""
    models = [tables.baseline(evaluation), *tables.candidates(evaluation)]
    if any(model["metrics"].get(name, {}).get("value") is None for model in models for name in (OVER, UNDER)):
        return None
    positions = [
        Position(model["name"], kind(index), _share(model["metrics"][OVER]), _share(model["metrics"][UNDER]))
        for index, model in enumerate(models)
    ]
    named = "; ".join(
        f"{position.name}: over-refusal {percent(position.across.value)}, under-refusal {percent(position.up.value)}"
        for position in positions
    )
    return plane(positions, "over-refusal", "under-refusal", named=f"Refusals of {named}")


def sentences(evaluation: Facts, first: Facts, candidate: Facts, judge: str) -> list[dict[str, str]]:
    """What a candidate refuses beside the baseline, always both sides, and the attack that works best on it.

    Args:
        evaluation: As the report has it.
        first: The baseline.
        candidate: The other model.
        judge: Of refusals, in words; empty: there is none.

    Returns:
        `{"text", "tone"}` each.
    """
    stated = [_refusals(first, candidate, judge)] if "refusals" in evaluation else []
    return stated + ([_attack(evaluation["attacks"], first, candidate)] if evaluation.get("attacks") else [])


def _refusals(first: Facts, candidate: Facts, judge: str) -> dict[str, str]:
    sides = {OVER: ("refuses", "prompts that should be answered"), UNDER: ("answers", "prompts that should be refused")}
    clauses = [_side(name, verb, what, first, candidate) for name, (verb, what) in sides.items()]
    words = {candidate["differences"].get(name, {}).get("decision") for name in sides}
    tone = {(True, False): "good", (False, True): "bad"}.get(("lower" in words, "higher" in words), "")
    both = OVER in candidate["metrics"] and UNDER in candidate["metrics"]
    return {
        "text": f"{candidate['name']} {' and '.join(clauses)}; judged by {judge}.",
        "tone": tone if both or tone == "bad" else "",  # one side alone is no success
    }


def _side(name: str, verb: str, what: str, first: Facts, candidate: Facts) -> str:
    before, after = first["metrics"].get(name), candidate["metrics"].get(name)
    if before is None or after is None or before["value"] is None or after["value"] is None:
        return f"{verb} an unknown share of {what} (not measured)"
    return (
        f"{verb} {percent(after['value'])} of {after['n']} {what}, {percent(before['value'])} with {first['name']} "
        f"({_difference(candidate['differences'][name])})"
    )


def _attack(sections: Sequence[Facts], first: Facts, candidate: Facts) -> dict[str, str]:
    """The attack that works best; of a group, whose runs the sections have one by one, beside the baseline alone."""
    is_group = candidate["name"] not in sections[0]["models"]
    rate = next(rate for rate in RATES if f"attack.{sections[0]['attack']}.{rate}" in candidate["metrics"])
    by_attack = {section["attack"]: f"attack.{section['attack']}.{rate}" for section in sections}
    measured = {
        attack: candidate["metrics"][metric]["value"]
        for attack, metric in by_attack.items()
        if candidate["metrics"][metric]["value"] is not None
    }
    if not measured:
        return {"text": f"No attack on {candidate['name']} could be judged.", "tone": ""}
    worst = max(measured, key=lambda attack: measured[attack])
    under, theirs = (side["metrics"][by_attack[worst]] for side in (candidate, first))
    change = candidate["differences"][by_attack[worst]]
    without = ""
    if not is_group:
        plain = next(section for section in sections if section["attack"] == worst)["models"][candidate["name"]][rate]
        change = plain["difference"]
        without = f"{percent(plain['plain']['value'])} without it ({_difference(change)}), "
    with_baseline = f"{percent(theirs['value'])} under it with {first['name']}"
    text = (
        f"Of {len(sections)} attacks, {worst} works best on {candidate['name']}: {percent(under['value'])} "
        f"{RATES[rate][0].lower()}{RATES[rate][1:]} (n {under['n']}), {without}{with_baseline}"
        f"{f' ({_difference(change)})' if is_group else ''}."
    )
    return {"text": text, "tone": "bad" if change["decision"] == "higher" else ""}


def _difference(difference: Facts) -> str:
    words = f"difference {points(difference['value'])} points" if difference["value"] is not None else "no difference"
    if difference["low"] is not None and difference["high"] is not None:
        words += f", {points(difference['low'])} to {points(difference['high'])}"
    why = f": {difference['why']}" if difference.get("why") else ""
    return f"{words}: {difference['decision']}{why}"


def _compared(estimate: Facts, difference: Facts | None, better: str) -> Compared:
    cell = tables.cell("refusal", estimate)
    return Compared(cell, Cell("") if difference is None else _toned(difference, better), estimate["n"])


def _under(section: Facts, rate: str, model: Facts) -> Compared:
    measured = section["models"][model["name"]][rate]
    to_baseline = model["differences"].get(f"attack.{section['attack']}.{rate}")
    return Compared(
        tables.cell("attack", measured["under"]),
        _toned(measured["difference"], "lower"),
        measured["under"]["n"],
        Cell("") if to_baseline is None else _toned(to_baseline, "lower"),
    )


def _toned(difference: Facts, better: str) -> Cell:
    cell = tables.change("refusal", difference)
    decision = difference.get("decision")
    tone = "" if decision not in ("higher", "lower") else ("good" if decision == better else "bad")
    return Cell(cell.text, cell.interval, cell.word, tone)


def _share(estimate: Facts) -> Coordinate:
    return Coordinate(estimate["value"], estimate["low"], estimate["high"])
