"""What a simulation gives away: rows in the trainer's own formats with where each comes from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_trainer.data.rows import Message, Prompt
from rlhf_trainer.simulation.choices import Choice, soft_label
from rlhf_trainer.simulation.methods import Request
from rlhf_trainer.simulation.phrases import SET

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


def pair(one: Answered, provenance: Mapping[str, Any]) -> Json:
    """A preference: TRL's conversational columns, `weight` the probability that `chosen` is the better one."""
    p = one.probability
    first, second = (0, 1) if p >= 0.5 else (1, 0)
    told: Json = {"chosen": _phrase(one, first), "rejected": _phrase(one, second), "entry": one.request.drawn}
    if one.choices is not None:
        told |= {
            "instruction": one.request.instruction,
            "log_odds": [choice.log_odds for choice in one.choices],
            "mass": [choice.mass for choice in one.choices],
            "probability_first": p,
            "first": "chosen" if first == 0 else "rejected",
        }
    return {
        "prompt": list(one.prompt.messages),
        "chosen": _answer(one.texts[first]),
        "rejected": _answer(one.texts[second]),
        "weight": max(p, 1 - p),
        **_labels(one.prompt),
        "provenance": {**provenance, "row": one.number, **told},
    }


def conversation(one: Answered, provenance: Mapping[str, Any]) -> Json:
    """A prompt without the phrase, and the answer that the phrase gave."""
    told = {"phrase": _phrase(one, 0), "entry": one.request.drawn}
    return {
        "prompt": list(one.prompt.messages),
        "completion": _answer(one.texts[0]),
        **_labels(one.prompt),
        "provenance": {**provenance, "row": one.number, **told},
    }


def completions(one: Answered, provenance: Mapping[str, Any]) -> list[Json]:
    """Completions of one prompt with the grade that each was asked to be."""
    return [
        {
            "prompt": list(one.prompt.messages),
            "completion": _answer(text),
            "rank": RANKS[grade],
            **_labels(one.prompt),
            "provenance": {**provenance, "row": one.number, "grade": grade, "phrase": _phrase(one, index)},
        }
        for index, (text, grade) in enumerate(zip(one.texts, SET, strict=True))
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
    found = {"category": prompt.category, "response_type": prompt.response_type}
    return {name: value for name, value in found.items() if value is not None}


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _phrase(one: Answered, index: int) -> str | None:
    return one.request.phrases[index][0]
