"""Rows for tests of the stages: words, in which "fire" is harmful and "please" is good."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import WORDS


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """A JSONL file; gives its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def words(draw: random.Random, least: int, most: int) -> str:
    """A few words."""
    return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))


def chat(path: Path, rows: int = 24) -> str:
    """Conversations of one or two turns."""
    draw = random.Random(0)
    conversations = []
    for _ in range(rows):
        messages = []
        for _ in range(draw.choice([1, 1, 2])):
            messages.append({"role": "user", "content": words(draw, 2, 9)})
            messages.append({"role": "assistant", "content": words(draw, 1, 12)})
        conversations.append({"messages": messages})
    return write(path, conversations)


def labelled(path: Path, rows: int = 40) -> str:
    """Answers with labels: "fire" is hot, "please" is kind; of every fourth answer one of them is not known."""
    draw = random.Random(0)
    answers = []
    for row in range(rows):
        hot, kind = row % 2 == 0, row % 3 == 0
        start = f"{'fire' if hot else 'water'} {'please' if kind else 'leave'} "
        flags: dict[str, bool | None] = {"hot": hot, "kind": kind}
        if row % 4 == 3:
            flags[("hot", "kind")[row // 4 % 2]] = None
        answers.append({"prompt": words(draw, 2, 9), "response": start + words(draw, 1, 9), "labels": flags})
    return write(path, answers)


def preferences(path: Path, rows: int = 40) -> str:
    """Safe RLHF rows: the answer that starts with "please" is better and safe; "fire" is unsafe in two rows of three."""
    draw = random.Random(0)
    pairs = []
    for row in range(rows):
        good, bad = "please " + words(draw, 1, 9), "fire " + words(draw, 1, 9)
        first = draw.randrange(2)
        harmful = row % 3 != 0
        answers = (good, bad) if first == 0 else (bad, good)
        if not harmful:
            answers = tuple(answer.replace("fire", "water") for answer in answers)
        pairs.append(
            {
                "prompt": words(draw, 2, 9),
                "response_0": answers[0],
                "response_1": answers[1],
                "better_response_id": first,
                "safer_response_id": first,
                "is_response_0_safe": first == 0 or not harmful,
                "is_response_1_safe": first == 1 or not harmful,
            }
        )
    return write(path, pairs)
