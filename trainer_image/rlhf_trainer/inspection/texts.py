"""The texts of typed rows: prompts as they are compared, answers, samples that do not depend on the order of rows. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np

from rlhf_trainer.data.rows import Completion, Conversation, Dialogue, Messages, Pair, Prompt, SafetyPair

Row = Conversation | Prompt | Pair | SafetyPair | Completion | Dialogue


def prompts(row: Row) -> list[str]:
    """What a row answers: of a dialogue to imitate, all before each answer that is learned; of users' turns the first,
    by which a dialogue goes, as no answer to it is there yet.

    System turns are left out: a long one that all rows share would make all rows alike.
    """
    if isinstance(row, Conversation):
        return [_dialogue(row.messages[:end]) for end in _learned(row)]
    if isinstance(row, Dialogue):
        return [_dialogue(row.after([]))]
    return [_dialogue(row.messages if isinstance(row, Prompt) else row.prompt)]


def answers(row: Row) -> list[str]:
    """The answers of a row, the learned ones of a dialogue to imitate; none of a prompt."""
    match row:
        case Conversation():
            return [row.messages[index]["content"] for index in _learned(row)]
        case Pair():
            return [row.better, row.worse]
        case SafetyPair():
            return [row.harmful, row.safer]
        case Completion():
            return [row.answer]
        case _:
            return []


class TextSample:
    """Up to `most` different texts, those of the lowest hash, and how often texts repeat.

    Eight bytes a text, and the sample's texts: twice `most` of them while they are collected.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._hashes = array("Q")
        self._texts: dict[int, str] = {}
        self._bound = 1 << 64
        """Hashes from it on are not among the lowest."""

    def add(self, text: str) -> None:
        """Take a text in."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        self._hashes.append(number)
        if self._most and number < self._bound:
            self._texts[number] = text
            if len(self._texts) > 2 * self._most:
                self._texts = {number: self._texts[number] for number in sorted(self._texts)[: self._most]}
                self._bound = max(self._texts)

    def __len__(self) -> int:
        """Texts taken in."""
        return len(self._hashes)

    @property
    def texts(self) -> list[str]:
        """The sample, by hash."""
        return [self._texts[number] for number in sorted(self._texts)[: self._most]]

    @property
    def different(self) -> int:
        """Different texts taken in."""
        return len(np.unique(np.frombuffer(self._hashes, np.uint64)))

    @property
    def repeated(self) -> float | None:
        """Share of texts that another one repeats; None: there are none."""
        if not len(self):
            return None
        _, counts = np.unique(np.frombuffer(self._hashes, np.uint64), return_counts=True)
        return float(counts[counts > 1].sum() / len(self))


def _learned(row: Conversation) -> Sequence[int]:
    """Indices of the turns of a dialogue that are learned."""
    return [
        index
        for index, message in enumerate(row.messages)
        if index >= row.prompt_turns and message["role"] == "assistant" and message.get("learned", True)
    ]


def _dialogue(messages: Messages) -> str:
    return "\n".join(message["content"].strip() for message in messages if message["role"] != "system")
