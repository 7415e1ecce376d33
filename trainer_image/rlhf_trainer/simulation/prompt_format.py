"""Where a phrase stands in a dialogue: in brackets before the colon of `Assistant`, or in the role's header.

The phrase of the answer to be sampled stands at the last turn; earlier turns of the assistant carry the opposite, so
that the last answer is told apart from what was said before (RLCD, arXiv 2307.12950, section 3). What is kept of a row
is the dialogue without any phrase.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_trainer.data.chat import FALLBACK_TEMPLATE
from rlhf_trainer.data.rows import Message
from rlhf_trainer.data.template import Guarded, Tokenizer, ids_of, render
from rlhf_trainer.evaluation.plain import bracketed, plain, start_of
from rlhf_trainer.exits import InputError

Chat = Literal["template", "plain"]
ROLE = re.compile(r"assistant|model|bot\b|\bai\b", re.IGNORECASE)
"""What templates call the one who answers."""
TAG = r"<[^<>\s]+>"
"""A role's markup that is no token of its own: Zephyr's `<|assistant|>`."""
NEXT_TURN = re.compile(r"\n[^\S\n]*(Human|Assistant|System)\b[^\n:]*:")
"""Where a model goes on with a turn that is not its own to write. A line is looked at once: models write endless blanks."""


@dataclass(frozen=True)
class Prompted:
    """A dialogue to be continued."""

    ids: list[int]
    """Not cut; no padding."""
    unmarked: int = 0
    """Earlier turns of the assistant without their phrase: the template writes them differently once they are history."""


def chat_of(tokenizer: Tokenizer, setting: Chat | None) -> Chat:
    """How dialogues are written: as wanted, else through the template where the tokenizer came with one."""
    if setting is not None:
        return setting
    return "plain" if tokenizer.chat_template == FALLBACK_TEMPLATE else "template"


def ask(
    tokenizer: Tokenizer, messages: Sequence[Message], chat: Chat, last: str | None = None, earlier: str | None = None
) -> Prompted:
    """A dialogue with phrases.

    Args:
        tokenizer: prepared.
        messages: all turns before the answer.
        chat: how it is written.
        last: phrase of the answer to come; None: none.
        earlier: phrase of the assistant's turns before; None: none.

    Raises:
        InputError: the template's header has no role to put a phrase behind.
    """
    if chat == "plain":
        text = plain(messages, last, earlier)
        return Prompted([*start_of(tokenizer), *ids_of(tokenizer, text, plain=True)])
    guarded = Guarded.of(tokenizer, messages)
    text, unmarked = templated(tokenizer, guarded.messages, last, earlier)
    return Prompted(guarded.ids(tokenizer, text), unmarked)


def templated(
    tokenizer: Tokenizer, messages: Sequence[Message], last: str | None = None, earlier: str | None = None
) -> tuple[str, int]:
    """The chat template's text with phrases behind the role in its headers, and the earlier turns left unmarked.

    Raises:
        InputError: as `ask`.
    """
    text = render(tokenizer, messages, generation=True)
    phrases = [(len(messages), last)]
    phrases += [(index, earlier) for index, message in enumerate(messages) if message["role"] == "assistant"]
    places: list[tuple[int, str]] = []
    unmarked = 0
    for index, phrase in phrases:
        if phrase is None:
            continue
        position = _place(tokenizer, messages, index, text)
        if position is not None:
            places.append((position, bracketed(phrase)))
        elif index == len(messages):
            header = text[-40:]
            raise InputError(
                f"the chat template's last words before an answer are {header!r}; expected a role such as "
                "'assistant' to put a phrase behind. Set chat: plain"
            )
        else:
            unmarked += 1
    for position, phrase in sorted(places, reverse=True):
        text = text[:position] + phrase + text[position:]
    return text, unmarked


def _place(tokenizer: Tokenizer, messages: Sequence[Message], index: int, text: str) -> int | None:
    """Where the role ends in the header of turn `index`; None where it cannot be told."""
    if index == 0:
        return None  # templates differ on a dialogue of nothing
    done = render(tokenizer, messages[:index])
    before = render(tokenizer, messages[:index], generation=True)
    if not before.startswith(done):
        done = done.removesuffix(tokenizer.eos_token)  # Phi-3's, where nothing follows
    if not before.startswith(done) or not text.startswith(before):
        return None
    names = list(ROLE.finditer(before, len(done)))
    return _behind(tokenizer, before, names[-1]) if names else None


def _behind(tokenizer: Tokenizer, text: str, name: re.Match[str]) -> int:
    """The end of a role's name, or of the token or tag whose part it is."""
    tokens = (token.content for token in tokenizer.added_tokens_decoder.values())
    roles = sorted((token for token in tokens if ROLE.search(token)), key=len, reverse=True)
    wholes = re.compile("|".join([*map(re.escape, roles), TAG]))
    ends = (match.end() for match in wholes.finditer(text, name.pos) if match.start() < name.end() < match.end())
    return next(ends, name.end())


def answer_text(text: str, chat: Chat) -> tuple[str, bool]:
    """What was answered, blanks around it removed, and whether it ended because the model wrote a further turn."""
    if chat == "template":
        return text.strip(), False
    next_turn = NEXT_TURN.search(text)
    return (text if next_turn is None else text[: next_turn.start()]).strip(), next_turn is not None
