"""A stand-in for a reward model, on the scale of one: a rule's weight can outweigh it."""

from __future__ import annotations

import re
from typing import Any


def distinct_words(prompts: list[Any], responses: list[str]) -> list[float]:
    """Reward: distinct words, in hundreds."""
    return [len(set(re.findall(r"[a-z']+", response.lower()))) / 100 for response in responses]
