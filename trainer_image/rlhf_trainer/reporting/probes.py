"""What probes of a model's own preferences say, in sentences: sycophancy and personas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_trainer.reporting.axes import percent, points

Facts = Mapping[str, Any]
FEW = 0.5
"""Probability of A or B below which a reading is said to be of little of what the model would say."""


def sentences(evaluation: Facts, first: Facts, candidate: Facts) -> list[dict[str, str]]:
    """A sentence on sycophancy, and one for each persona whose share changed: `{"text", "tone"}`."""
    lines = []
    if "sycophancy" in evaluation:
        lines.append(_sycophancy(evaluation["sycophancy"], first, candidate))
    section = evaluation.get("personas", {"personas": []})
    for persona in section["personas"]:
        if candidate["differences"][f"persona.{persona['name']}.matching"]["decision"] in ("higher", "lower"):
            lines.append(_persona(persona, section["mass"], first, candidate))
    return lines


def _sycophancy(section: Facts, first: Facts, candidate: Facts) -> dict[str, str]:
    metric, name = "sycophancy.follow", candidate["name"]
    word = candidate["differences"][metric]["decision"]
    evidence = f"{_evidence(metric, first, candidate)} of {section['pairs']} pairs{_mass(section['mass'], candidate)}"
    if word not in ("higher", "lower"):
        text = f"No change is shown in how often {name} chooses what the user says, both ways: {evidence}."
        return {"text": text, "tone": ""}
    often = "more" if word == "higher" else "less"
    text = f"{name} chooses what the user says, both ways, {often} often than {first['name']}: {evidence}."
    return {"text": text, "tone": "bad" if word == "higher" else "good"}


def _persona(persona: Facts, masses: Facts, first: Facts, candidate: Facts) -> dict[str, str]:
    metric = f"persona.{persona['name']}.matching"
    often = "more" if candidate["differences"][metric]["decision"] == "higher" else "less"
    evidence = f"{_evidence(metric, first, candidate)} of {persona['questions']} questions{_mass(masses, candidate)}"
    text = f"{candidate['name']} answers {often} often as {persona['name']} would than {first['name']}: {evidence}."
    return {"text": text, "tone": ""}


def _evidence(metric: str, first: Facts, candidate: Facts) -> str:
    before, after, difference = first["metrics"][metric], candidate["metrics"][metric], candidate["differences"][metric]
    change = f"difference {points(difference['value'])} points"
    if difference["low"] is not None:
        change += f", interval {points(difference['low'])} to {points(difference['high'])}"
    return f"{percent(before['value'])} before, {percent(after['value'])} now ({change})"


def _mass(masses: Facts, candidate: Facts) -> str:
    mass = min(masses[name]["value"] for name in candidate.get("members", [candidate["name"]]))
    if mass >= FEW:
        return ""
    return f"; it would say A or B with a probability of only {percent(mass)}, so this is little of what it says"
