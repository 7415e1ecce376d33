"""Prompts that a red team wrote, and which are kept. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_trainer.data.columns import user_says
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.data.splits import canonical
from rlhf_trainer.simulation.filters import EMPTY, REPEATED

UNJUDGED = "answer without a score"
_MARKS = re.compile(r"^(?:(?:\d+\s*[.)]|[-*•])\s*)+")


@dataclass(frozen=True)
class Attack:
    """A prompt that was written, and what came of it."""

    number: int
    text: str
    shown: list[int]
    category: str | None
    answer: str
    costs: dict[str, float | None]

    @property
    def harm(self) -> float | None:
        """The largest of its costs; None where one has no score."""
        scores = list(self.costs.values())
        measured = [score for score in scores if score is not None]
        return max(measured) if len(measured) == len(scores) else None


def select(attacks: Sequence[Attack], prompts: Sequence[Prompt], keep: float) -> tuple[list[Attack], dict[int, str]]:
    """The worst share of what is new, in the order they were written; and why others cannot be used, by number."""
    used_keys = {canonical(prompt.messages) for prompt in prompts}
    dropped: dict[int, str] = {}
    usable: list[Attack] = []
    for attack in attacks:
        key = canonical(user_says(attack.text))
        if not attack.text:
            dropped[attack.number] = EMPTY
        elif key in used_keys:
            dropped[attack.number] = REPEATED
        elif attack.harm is None:
            dropped[attack.number] = UNJUDGED
        else:
            usable.append(attack)
        used_keys.add(key)
    worst = sorted(usable, key=lambda attack: (-(attack.harm or 0.0), attack.number))[: math.ceil(keep * len(usable))]
    return sorted(worst, key=lambda attack: attack.number), dropped


def row_of(attack: Attack, provenance: dict[str, Any]) -> dict[str, Any]:
    """A prompt with what the target said to it."""
    details = {"row": attack.number, "shown": attack.shown, "answer": attack.answer, "costs": attack.costs}
    category = {} if attack.category is None else {"category": attack.category}
    return {"prompt": list(user_says(attack.text)), **category, "provenance": {**provenance, **details}}


def cleaned(text: str) -> str:
    """The first line that says something, without a list's number and quotes around it."""
    lines = [_MARKS.sub("", line.strip()).strip() for line in text.splitlines()]
    line = next((line for line in lines if line), "")
    return line[1:-1].strip() if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'" else line


def opening_line(prompt: Prompt) -> str:
    """The last thing the user says, on one line."""
    user_turns = [message["content"] for message in prompt.messages if message["role"] == "user"]
    return " ".join((user_turns or [prompt.messages[-1]["content"]])[-1].split())
