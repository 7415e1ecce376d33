"""What a simulation gives away: rows in the trainer's own formats with where each comes from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_trainer.data.rows import Message, Prompt
from rlhf_trainer.simulation.methods import Request
from rlhf_trainer.simulation.phrases import SET
from rlhf_trainer.statistics.choices import Choice, soft_label

Json = dict[str, Any]
RANKS = {grade: rank for rank, grade in enumerate(dict.fromkeys(SET))}
"""Place of a completion's grade, 0 the best."""


@dataclass(frozen=True)
class Answered:
    """One row's answers before anything is dropped."""

    number: int
    """prompt x samples + sample."""
    prompt: Prompt
    request: Request
    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    """Of each answer, EOS included."""
    choices: tuple[Choice, Choice] | None = None
    """The judge's, with the first and with the second answer as A."""

    @property
    def probability(self) -> float:
        """That the first answer is the better one: 1 by construction, else the judge's."""
        return 1.0 if self.choices is None else soft_label(self.choices[0].log_odds, self.choices[1].log_odds)


def pair(row: Answered, provenance: Mapping[str, Any]) -> Json:
    """A preference: TRL's conversational columns, `weight` the probability that `chosen` is the better one."""
    p = row.probability
    first, second = (0, 1) if p >= 0.5 else (1, 0)
    details: Json = {"chosen": _phrase(row, first), "rejected": _phrase(row, second), "entry": row.request.drawn}
    if row.choices is not None:
        details |= {
            "instruction": row.request.instruction,
            "log_odds": [choice.log_odds for choice in row.choices],
            "mass": [choice.mass for choice in row.choices],
            "probability_first": p,
            "first": "chosen" if first == 0 else "rejected",
        }
    return {
        "prompt": list(row.prompt.messages),
        "chosen": _answer(row.texts[first]),
        "rejected": _answer(row.texts[second]),
        "weight": max(p, 1 - p),
        **_labels(row.prompt),
        "provenance": {**provenance, "row": row.number, **details},
    }


def conversation(row: Answered, provenance: Mapping[str, Any]) -> Json:
    """A prompt without the phrase, and the answer that the phrase gave."""
    details = {"phrase": _phrase(row, 0), "entry": row.request.drawn}
    return {
        "prompt": list(row.prompt.messages),
        "completion": _answer(row.texts[0]),
        **_labels(row.prompt),
        "provenance": {**provenance, "row": row.number, **details},
    }


def completions(row: Answered, provenance: Mapping[str, Any]) -> list[Json]:
    """Completions of one prompt with the grade that each was asked to be."""
    return [
        {
            "prompt": list(row.prompt.messages),
            "completion": _answer(text),
            "rank": RANKS[grade],
            **_labels(row.prompt),
            "provenance": {**provenance, "row": row.number, "grade": grade, "phrase": _phrase(row, index)},
        }
        for index, (text, grade) in enumerate(zip(row.texts, SET, strict=True))
    ]


def blind(row: Json, number: int, swapped: bool) -> Json:
    """A row for people to check without knowing what it was made to be: for a pair, `better` is to be filled in."""
    if "chosen" not in row:
        shown: Json = {name: row[name] for name in ("prompt", "completion") if name in row}
        return {"number": number, **shown, "good": None}
    texts = [row[name][0]["content"] for name in ("chosen", "rejected")]
    first, second = texts[::-1] if swapped else texts
    return {"number": number, "prompt": row["prompt"], "a": first, "b": second, "better": None}


def _labels(prompt: Prompt) -> Json:
    labels = {"category": prompt.category, "response_type": prompt.response_type}
    return {name: value for name, value in labels.items() if value is not None}


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _phrase(row: Answered, index: int) -> str | None:
    return row.request.phrases[index][0]
