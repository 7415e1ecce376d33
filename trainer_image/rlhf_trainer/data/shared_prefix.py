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
class Fork:
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
class Forked:
    """Forks side by side, padded on the right."""

    input_ids: Tensor
    """[B, T] int64, PAD at the end."""
    position_ids: Tensor
    """[B, T] int64: a token's place in its own row."""
    visible: Tensor
    """[B, 1, T, T] bool: whether a token (third axis) attends to another (fourth)."""
    ends: Tensor
    """[2, B] int64: the last token of the first rows, and of the second."""


def lay_forks(forks: Sequence[Fork], pad_id: int) -> Forked:
    """Pad forks to the longest.

    Raises:
        ValueError: there is none.
    """
    if not forks:
        raise ValueError("no pair to lay out")
    width = max(len(fork) for fork in forks)
    input_ids = torch.full((len(forks), width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(forks), width), dtype=torch.long)
    branch = torch.zeros((len(forks), width), dtype=torch.long)
    for index, fork in enumerate(forks):
        middle, end = len(fork.first), len(fork)
        input_ids[index, :end] = torch.tensor(fork.ids)
        position_ids[index, :middle] = torch.arange(middle)
        position_ids[index, middle:end] = torch.arange(fork.shared, len(fork.second))
        branch[index, fork.shared : middle] = 1
        branch[index, middle:] = 2  # padding too: nothing that counts sees it, and it sees something
    places = torch.arange(width)
    earlier = places[:, None] >= places[None, :]
    apart = (branch[:, :, None] == 2) & (branch[:, None, :] == 1)
    ends = torch.tensor([[len(fork.first) - 1 for fork in forks], [len(fork) - 1 for fork in forks]])
    return Forked(input_ids, position_ids, (earlier & ~apart)[:, None], ends)
