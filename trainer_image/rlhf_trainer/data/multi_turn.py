"""Rows of users' turns that models answer one after the other: texts in `turns`, or the user's messages of a conversation."""

from __future__ import annotations

from typing import Any

from rlhf_trainer.data.columns import Columns, Malformed, Rejected, category_of, typed, value_of
from rlhf_trainer.data.demonstrations import messages_in
from rlhf_trainer.data.dialogues import after_system
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import Dialogue, Messages, Where

TURNS = "a list of texts, one a user's turn"


def holds_texts(value: Any) -> bool:
    """Whether a column `turns` may be users' texts, bad ones too: it is no list of messages."""
    turns = typed(value)
    return not (isinstance(turns, list) and any(isinstance(turn, dict) for turn in turns))


def dialogue_of_turns(row: Columns, where: Where) -> Dialogue:
    """Of the texts in `turns`."""
    turns = typed(value_of(row, "turns", TURNS))
    if not isinstance(turns, list) or not turns:
        raise Malformed("turns", describe(turns), TURNS)
    for index, text in enumerate(turns):
        if not isinstance(text, str) or not text.strip():
            raise Malformed(f"turns[{index}]", describe(text), "a text that is not empty")
    messages: Messages = tuple({"role": "user", "content": text} for text in turns)
    return _dialogue(after_system(row, messages), row, where)


def dialogue_of_messages(row: Columns, where: Where) -> Dialogue:
    """Of a conversation's user's messages: models give answers of their own."""
    messages, column = messages_in(row)
    for index, message in enumerate(messages):
        role = message["role"]
        if role not in ("user", "assistant") and (role != "system" or index):
            raise Malformed(f"{column}[{index}].role", describe(role), "user or assistant, after at most one system")
        if role == "user" and not message["content"].strip():
            raise Malformed(f"{column}[{index}].content", describe(message["content"]), "a text that is not empty")
    return _dialogue(tuple(message for message in messages if message["role"] != "assistant"), row, where)


def _dialogue(messages: Messages, row: Columns, where: Where) -> Dialogue:
    if sum(message["role"] == "user" for message in messages) < 2:
        raise Rejected("one turn")
    return Dialogue(messages, category_of(row), where)
