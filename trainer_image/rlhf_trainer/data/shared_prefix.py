"""Two answers to one prompt as one sequence: the prompt once, then the rest of either, which do not see each other.

A pair of rows costs the tokens of its prompt once instead of twice. Positions go on from the prompt in both branches,
so that each has the states it would have alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor

from rlhf_trainer.data.chat import Encoded


@dataclass(frozen=True)
class SharedPrefixPair:
    """A pair of rows, laid out as [what both begin with | rest of the first | rest of the second]."""

    first: Encoded
    second: Encoded

    @cached_property
    def shared(self) -> int:
        """Tokens both begin with; at least one token of either is its own, whose state the score is read from."""
        alike = takewhile(lambda both: both[0] == both[1], zip(self.first.ids, self.second.ids, strict=False))
        return min(sum(1 for _ in alike), len(self.first) - 1, len(self.second) - 1)

    @property
    def ids(self) -> list[int]:
        """Token ids of the whole layout."""
        return [*self.first.ids, *self.second.ids[self.shared :]]

    def __len__(self) -> int:
        return len(self.first) + len(self.second) - self.shared


@dataclass(frozen=True)
class SharedPrefixBatch:
    """Pairs side by side, padded on the right."""

    input_ids: Tensor
    """[B, T] int64, PAD at the end."""
    position_ids: Tensor
    """[B, T] int64: a token's place in its own row."""
    visible: Tensor
    """[B, 1, T, T] bool: whether a token (third axis) attends to another (fourth)."""
    ends: Tensor
    """[2, B] int64: the last token of the first rows, and of the second."""


def collate_shared_prefix(pairs: Sequence[SharedPrefixPair], pad_id: int) -> SharedPrefixBatch:
    """Pad pairs to the longest.

    Raises:
        ValueError: there is none.
    """
    if not pairs:
        raise ValueError("no pair to lay out")
    width = max(len(pair) for pair in pairs)
    input_ids = torch.full((len(pairs), width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(pairs), width), dtype=torch.long)
    branch = torch.zeros((len(pairs), width), dtype=torch.long)
    for index, pair in enumerate(pairs):
        middle, end = len(pair.first), len(pair)
        input_ids[index, :end] = torch.tensor(pair.ids)
        position_ids[index, :middle] = torch.arange(middle)
        position_ids[index, middle:end] = torch.arange(pair.shared, len(pair.second))
        branch[index, pair.shared : middle] = 1
        branch[index, middle:] = 2  # padding too: nothing that counts sees it, and it sees something
    places = torch.arange(width)
    earlier = places[:, None] >= places[None, :]
    apart = (branch[:, :, None] == 2) & (branch[:, None, :] == 1)
    ends = torch.tensor([[len(pair.first) - 1 for pair in pairs], [len(pair) - 1 for pair in pairs]])
    return SharedPrefixBatch(input_ids, position_ids, (earlier & ~apart)[:, None], ends)
