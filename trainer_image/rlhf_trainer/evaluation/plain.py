"""Dialogues as plain lines of `Human:` and `Assistant:`, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_trainer.data.rows import Message
from rlhf_trainer.data.template import Tokenizer

NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}
"""Of plain dialogues, HH-RLHF's."""


def plain(messages: Sequence[Message], last: str | None = None, earlier: str | None = None) -> str:
    """`\\n\\nHuman: ...\\n\\nAssistant (earlier): ...\\n\\nHuman: ...\\n\\nAssistant (last):`."""
    turns = [
        f"\n\n{NAMES.get(message['role'], message['role'].capitalize())}"
        f"{bracketed(earlier if message['role'] == 'assistant' else None)}: {message['content'].strip()}"
        for message in messages
    ]
    return "".join(turns) + f"\n\nAssistant{bracketed(last)}:"


def start_of(tokenizer: Tokenizer) -> list[int]:
    """What a plain text begins with: BOS where the tokenizer puts it before every text."""
    ids = tokenizer("a")["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def bracketed(phrase: str | None) -> str:
    """A phrase in brackets behind a role; nothing where there is none."""
    return "" if phrase is None else f" ({phrase})"
