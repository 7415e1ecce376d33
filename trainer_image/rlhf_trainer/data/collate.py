"""Rows of ids as tensors: padded, or packed.

position_ids = cumsum(mask) - 1 everywhere, so that left and right padding give the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlhf_trainer.data.chat import Encoded


@dataclass(frozen=True)
class Padded:
    """Sequences side by side."""

    input_ids: Tensor
    """[B, T] int64, PAD where attention_mask is 0."""
    attention_mask: Tensor
    """[B, T] int64: 1 on tokens, 0 on padding."""
    position_ids: Tensor
    """[B, T] int64: cumsum(attention_mask) - 1, 0 on leading padding."""
    mask: Tensor
    """[B, T] float32: 1 on the tokens the loss (or the score) is about."""


@dataclass(frozen=True)
class Packed:
    """Several sequences a row, each attending to itself only.

    Call the model with `attention_mask=None`, these `position_ids` and `use_cache=False`: where positions restart,
    transformers makes the causal mask block-diagonal (sdpa, eager and flash attention). With a cache, or with an
    attention mask, it does not.
    """

    input_ids: Tensor
    """[B, T] int64."""
    position_ids: Tensor
    """[B, T] int64, from 0 in every sequence; the padding at the end is a sequence of its own."""
    segments: Tensor
    """[B, T] int64: number of the sequence in its row from 1; 0 on padding."""
    mask: Tensor
    """[B, T] float32: 1 on the tokens the loss is about. A sequence's first token has 0: nothing predicts it."""


def positions(attention_mask: Tensor) -> Tensor:
    """[B, T] positions of tokens: cumsum(mask) - 1, 0 on leading padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def pad(
    rows: Sequence[Encoded], pad_id: int, side: Literal["left", "right"] = "right", length: int | None = None
) -> Padded:
    """Pad rows to the longest, or to `length`.

    Raises:
        ValueError: a row is longer than `length`, or there is none.
    """
    if not rows:
        raise ValueError("no row to pad")
    longest = max(len(row) for row in rows)
    width = longest if length is None else length
    if longest > width:
        raise ValueError(f"a row of {longest} tokens does not fit {width}")
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.float32)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        input_ids[index, span] = torch.tensor(row.ids, dtype=torch.long)
        attention[index, span] = 1
        mask[index, span] = torch.tensor(row.mask, dtype=torch.float32)
    return Padded(input_ids, attention, positions(attention), mask)


def pack_rows(packs: Sequence[Sequence[Encoded]], pad_id: int, length: int | None = None) -> Packed:
    """Lay each pack's sequences behind one another, padded to the longest pack, or to `length`.

    Raises:
        ValueError: a pack is longer than `length`, or there is none.
    """
    if not packs:
        raise ValueError("no pack")
    longest = max(sum(len(row) for row in rows) for rows in packs)
    width = longest if length is None else length
    if longest > width:
        raise ValueError(f"a pack of {longest} tokens does not fit {width}")
    input_ids = torch.full((len(packs), width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(packs), width), dtype=torch.long)
    segments = torch.zeros((len(packs), width), dtype=torch.long)
    mask = torch.zeros((len(packs), width), dtype=torch.float32)
    for index, rows in enumerate(packs):
        start = 0
        for number, row in enumerate(rows, start=1):
            end = start + len(row)
            input_ids[index, start:end] = torch.tensor(row.ids, dtype=torch.long)
            position_ids[index, start:end] = torch.arange(len(row))
            segments[index, start:end] = number
            mask[index, start:end] = torch.tensor(row.mask, dtype=torch.float32)
            mask[index, start] = 0.0
            start = end
        position_ids[index, start:] = torch.arange(width - start)
    return Packed(input_ids, position_ids, segments, mask)
