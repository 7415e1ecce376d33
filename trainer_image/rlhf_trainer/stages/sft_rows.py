"""Conversations as the rows that supervised fine-tuning learns from and holds out."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_trainer.data.batches import pack
from rlhf_trainer.data.chat import Encoded


class SftData:
    """Conversations as rows of tokens, packed or one a row.

    Attributes:
        encoded: Every conversation, training ones first.
        rows: Indices of the conversations of each training row.
        heldout: The same for held-out rows.
        dialogues: Of each held-out row, the number of the dialogue it is from: such rows are not independent.
    """

    def __init__(
        self, train: Sequence[Encoded], heldout: Sequence[Encoded], pack_to: int | None, dialogues: Sequence[str]
    ) -> None:
        self.encoded = [*train, *heldout]
        first = len(train)
        self.rows = _rows(range(first), self.encoded, pack_to)
        self.heldout = _rows(range(first, len(self.encoded)), self.encoded, pack_to)
        self.dialogues = linked([[dialogues[index - first] for index in row] for row in self.heldout])
        self.packed = pack_to is not None

    def length(self, row: Sequence[int]) -> int:
        """Tokens of a row."""
        return sum(len(self.encoded[index]) for index in row)

    def learned(self, row: Sequence[int]) -> int:
        """Tokens of a row that the loss is about (a sequence's first token is predicted by nothing)."""
        return sum(sum(self.encoded[index].mask[1:]) for index in row)


def _rows(indices: range, encoded: Sequence[Encoded], pack_to: int | None) -> list[tuple[int, ...]]:
    if pack_to is None:
        return [(index,) for index in indices]
    packs = pack([len(encoded[index]) for index in indices], pack_to)
    return [tuple(indices[number] for number in members) for members in packs]


def linked(rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each row the number of its group: rows that have a dialogue in common, also by way of others, are one group."""
    groups = list(range(len(rows)))
    first: dict[str, int] = {}
    for number, dialogues in enumerate(rows):
        for dialogue in dialogues:
            earlier, current = groups[first.setdefault(dialogue, number)], groups[number]
            if earlier != current:
                groups = [earlier if group == current else group for group in groups]
    return groups
