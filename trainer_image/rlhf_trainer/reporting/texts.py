"""What prepare noted of the texts of rows, as the report shows it: measures by use, and twins of evaluated prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rlhf_trainer.reporting.files import Json


class Length(BaseModel):
    """Characters of texts."""

    mean: float
    median: float


class Quality(BaseModel):
    """Measures of the rows of some uses; shares in [0, 1], None where rows have no such text."""

    uses: list[str]
    """`stage sft, sft.data[0]`."""
    rows: int
    answers: int
    repeatedPrompts: float | None
    repeatedAnswers: float | None
    promptLength: Length | None
    answerLength: Length | None
    distinct2: float | None
    repetitive: float | None
    """Share of answers that already said at least `repetitiveFrom` of their 4-grams."""
    repetitiveFrom: float
    sampled: int
    """Answers that `distinct2` and `repetitive` are of."""


class Twin(BaseModel):
    """A prompt that evaluates beside the one that training reads."""

    prompt: str
    twin: str
    likeness: float
    exact: bool
    stages: list[str]
    """That read the twin."""


class Twins(BaseModel):
    """What training reads of the prompts of an evaluation's reference."""

    where: str
    """`stage judge, evaluate.prompts[0]`."""
    different: int
    compared: int
    """At most `different`: of many a sample."""
    exact: int
    near: int
    stages: dict[str, int]
    """Twins by the stage that reads them, those with none too."""
    examples: list[Twin]
    text: str
    """All of it in words."""


def sentences(provenance: Mapping[str, Json]) -> list[str]:
    """For each reference of an evaluation to an input, what training reads of its prompts: also where that is none."""
    return [twins["text"] for entry in provenance.values() for twins in entry.get("twins") or []]


def row_texts(entry: Json) -> dict[str, Any]:
    """Of an input's provenance what `report.json` has of its rows' texts; empty where prepare was an older one."""
    return {"quality": entry.get("quality") or [], "twins": entry.get("twins") or []}
