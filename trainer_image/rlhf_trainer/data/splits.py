"""Which prompt a row is about, and on which side of a split it lies."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import orjson

from rlhf_trainer.data.rows import (
    Completion,
    Conversation,
    Dialogue,
    LabelledAnswer,
    Messages,
    Pair,
    Prompt,
    SafetyPair,
    Tool,
)

AnyRow = Conversation | Prompt | Pair | SafetyPair | Completion | LabelledAnswer | Dialogue
Row = TypeVar("Row", Conversation, Prompt, Pair, SafetyPair, Completion, LabelledAnswer, Dialogue)


def split_by_prompt(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(train, held out), split by the opening of the dialogue: no prompt is on both sides.

    The held-out side gets ceil(fraction x distinct openings), those of the lowest seeded hash; never all of them.
    The order of rows is kept.
    """
    hashes = {start: _hash(start, seed) for start in {opening(row) for row in rows}}
    size = min(math.ceil(fraction * len(hashes)), len(hashes) - 1) if fraction > 0 else 0
    heldout_openings = set(sorted(hashes, key=lambda start: hashes[start])[: max(size, 0)])
    train: list[Row] = []
    heldout: list[Row] = []
    for row in rows:
        (heldout if opening(row) in heldout_openings else train).append(row)
    return train, heldout


def canonical(messages: Messages, tools: Sequence[Tool] = ()) -> bytes:
    """A prompt's canonical bytes: equal exactly where its turns and tools are, blanks around texts aside."""
    turns: list[Any] = []
    for message in messages:
        fields = {key: value for key, value in message.items() if key not in ("role", "content")}
        turns.append([message["role"], message["content"].strip(), *([fields] if fields else [])])
    return orjson.dumps([*turns, *tools], option=orjson.OPT_SORT_KEYS)


def in_heldout(row: AnyRow, share: float) -> bool:
    """Whether a row belongs to its input's held-out share: a function of the dialogue's opening alone."""
    return _hash(opening(row), None) < share


def opening(row: AnyRow) -> str:
    """The dialogue's first user's message: deeper turns of one dialogue stay on one side."""
    messages = row.messages if isinstance(row, Conversation | Prompt | Dialogue) else row.prompt
    first = next((message for message in messages if message["role"] == "user"), messages[0])
    return first["content"].strip()


def _hash(text: str, seed: int | None) -> float:
    """Uniform in [0, 1), a function of the text and the seed."""
    salt = b"heldout" if seed is None else b"holdout:%d" % seed
    return int.from_bytes(hashlib.sha256(salt + b"\0" + text.encode()).digest()[:8], "big") / 2**64
