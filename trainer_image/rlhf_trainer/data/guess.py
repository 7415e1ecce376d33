"""A `columns:` line for a file whose layout is unknown, made from the columns it has."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from rlhf_api.stages.common import Rows
from rlhf_trainer.data.columns import Columns
from rlhf_trainer.data.preferences import SAFETY_COLUMNS

WANTED: dict[Rows, tuple[str, ...]] = {
    "prompts": ("prompt",),
    "conversations": ("prompt", "completion"),
    "pairs": ("prompt", "chosen", "rejected"),
    "safety pairs": ("prompt", "response_0", "response_1", "safer_response_id", *SAFETY_COLUMNS),
    "completions": ("prompt", "completion", "response_type", "rank"),
    "labelled answers": ("prompt", "completion", "labels"),
    "dialogues": ("turns",),
}
"""Columns that rows of a use are made from."""
PROMPTS = (
    "question query instruction input context problem goal text user user_input user_message human source "
    "prompt_text request title"
)
ANSWERS = "answer response output reply completion target solution assistant assistant_response gpt bot"
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": tuple(PROMPTS.split()),
    "completion": tuple(ANSWERS.split()),
    "chosen": (
        *(
            "answer_matching_behavior",
            "preferred",
            "accepted",
            "chosen_response",
            "response_chosen",
            "better",
            "winner",
        ),
        *("good", "positive", "answer_a", "response_a", "response_1", "output_1"),
    ),
    "rejected": (
        *("answer_not_matching_behavior", "dispreferred", "rejected_response", "response_rejected", "worse", "loser"),
        *("bad", "negative", "answer_b", "response_b", "response_2", "output_2"),
    ),
    "response_0": ("response_a", "answer_0", "answer_a", "response_1"),
    "response_1": ("response_b", "answer_1", "answer_b", "response_2"),
    "messages": ("dialog", "dialogue", "chat", "turns", "history"),
    "labels": ("label", "tags", "classes", "categories"),
    "turns": ("dialog", "dialogue", "chat", "history", "questions", "queries", "prompts"),
}
"""Names that data sets give a format's column, the likelier first."""
SPOKEN = frozenset({"prompt", "completion", "chosen", "rejected"})
"""Columns for which any text may be taken, whatever its name."""
_LABELS = re.compile(
    r"(^|_)(id|idx|index|hash|sha\d*|url|label|labels|category|type|source|model|lang|language|date|split)$", re.I
)
"""Names of columns that label a row and say nothing."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_YAML_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "null", "y", "n"])


def suggest(row: Columns, use: Rows, *, by_order: bool) -> str | None:
    """The line, `columns: {prompt: question, ...}`, from a row's columns; None where too few could be meant.

    A column of the format's own name stays. Others are told by their names; `by_order`: else texts in their order.
    """
    dialogue = _named("messages", [name for name, value in row.items() if _is_dialogue(value)])
    if dialogue is not None and use in ("prompts", "conversations", "dialogues"):
        return _line([("messages", dialogue)])
    free = [name for name in row if name not in WANTED[use]]
    missing = [ours for ours in WANTED[use] if ours not in row]
    chosen: dict[str, str] = {}
    for ours in missing:
        column = _named(ours, [name for name in free if name not in chosen.values()])
        if column is not None:
            chosen[ours] = column
    texts = [name for name in free if isinstance(row[name], str) and not _LABELS.search(name)]
    for ours in missing if by_order else []:
        unnamed = [name for name in texts if name not in chosen.values()]
        if ours in SPOKEN and ours not in chosen and unnamed:
            chosen[ours] = unnamed[0]
    complete = set(chosen) == set(missing)
    return _line([(ours, chosen[ours]) for ours in missing]) if complete and missing else None


def _named(ours: str, columns: Collection[str]) -> str | None:
    lower = {column.lower(): column for column in reversed(list(columns))}
    return next((lower[name] for name in NAMES.get(ours, ()) if name in lower), None)


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _line(pairs: Sequence[tuple[str, str]]) -> str:
    return f"columns: {{{', '.join(f'{ours}: {_quoted(theirs)}' for ours, theirs in pairs)}}}"


def _quoted(name: str) -> str:
    plain = _PLAIN.fullmatch(name) and name.lower() not in _YAML_WORDS
    return name if plain else json.dumps(name, ensure_ascii=False)
