"""Turns of rows: prompts, answers and HH-RLHF's transcripts as messages."""

from __future__ import annotations

import re
from typing import Any

from rlhf_trainer.data.columns import (
    Columns,
    Malformed,
    Rejected,
    as_prompt,
    text_of,
    text_or_list,
    user_says,
    value_of,
)
from rlhf_trainer.data.messages import messages_of, plain_answer
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import (
    Conversation,
    Messages,
    Where,
    says_something,
)


def first_with_value(row: Columns, columns: tuple[str, ...]) -> str:
    """Of some columns the first that the row has a value of."""
    return next((column for column in columns if row.get(column) is not None), columns[0])


def read_prompt(row: Columns) -> Messages:
    """The turns before the answer: messages, a text of one user, or an HH-RLHF transcript."""
    value = text_or_list(value_of(row, "prompt", "a string or a list of messages"))
    if isinstance(value, list):
        return as_prompt(messages_of(value, "prompt"), "prompt")
    text = text_of(row, "prompt")
    if not is_transcript(text):
        return as_prompt(user_says(text), "prompt")
    turns = parse_dialogue(text, "prompt")
    return as_prompt(turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns, "prompt")


def is_transcript(value: Any) -> bool:
    """Whether a text is a dialogue of HH-RLHF, and not one that merely begins like it."""
    return is_dialogue(value) and (value[0] in "\r\n" or _TURN.search(value) is not None)


def answer_text(row: Columns, column: str) -> str:
    """An answer; after a transcript without the blank that follows `Assistant:`."""
    text = text_of(row, column)
    return text.strip() if is_transcript(row.get("prompt")) else text


def learned_conversation(messages: Messages, column: str, where: Where, prompt_turns: int = 0) -> Conversation:
    """The dialogue up to its last learned answer; turns after it have none to learn from."""
    answers = [
        index for index, message in enumerate(messages) if index >= prompt_turns and message["role"] == "assistant"
    ]
    if not answers:
        raise Malformed(column, "no assistant's message", "one to learn from")
    learned = [index for index in answers if messages[index].get("learned", True)]
    if not learned:
        raise Rejected("no learned answer")
    messages = messages[: learned[-1] + 1]
    if not says_something(messages[-1]):
        raise Rejected("empty answer")
    if len(messages) == 1:
        raise Rejected("empty prompt")
    return Conversation(messages, where, prompt_turns)


def after_system(row: Columns, messages: Messages) -> Messages:
    """Messages after the text of the column `system`, where a row has one and they have none."""
    if messages[0]["role"] == "system" or not row.get("system"):
        return messages
    return ({"role": "system", "content": text_of(row, "system")}, *messages)


def one_answer(messages: Messages, column: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise Malformed(column, f"{len(messages)} messages, the last {messages[-1]['role']}'s", "one of the assistant")
    return plain_answer(messages[0], column)


_TURN = re.compile(r"\n[ \t\r]*\n[ \t]*(?:Human|Assistant):")
"""The start of a turn within a dialogue."""


_TURNS = re.compile(r"(?:\A\s*|\n[ \t]*\n[ \t]*)(Human|Assistant):")


def is_dialogue(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith(("Human:", "Assistant:"))


def parse_dialogue(text: str, column: str) -> Messages:
    """Turns of `\\n\\nHuman: ...\\n\\nAssistant: ...`, each without the blanks around it; lines end in LF or CRLF.

    Raises:
        Malformed: it does not start with a turn.
    """
    pieces = _TURNS.split(text.replace("\r\n", "\n"))
    if pieces[0].strip() or len(pieces) < 3:
        raise Malformed(column, describe(text), "a dialogue that starts with '\\n\\nHuman:'")
    roles: dict[str, str] = {"Human": "user", "Assistant": "assistant"}
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return tuple({"role": roles[role], "content": content.strip()} for role, content in turns)
