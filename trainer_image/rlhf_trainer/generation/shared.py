"""States after the last token of rows that begin alike: what they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from rlhf_trainer.data.batches import buckets
from rlhf_trainer.generation.cache import right_aligned
from rlhf_trainer.generation.prefix import PrefixCache
from rlhf_trainer.models.lengths import attends_everywhere

Row = list[int]


@torch.no_grad()
def last_states(
    model: Any, groups: Sequence[Sequence[Row]], fill: int, device: torch.device, budget: int
) -> list[list[Tensor]]:
    """The decoder's last state of every row, group by group.

    Args:
        model: a causal language model in evaluation mode.
        groups: rows of ids, at least one id each; those of a group should begin alike.
        fill: any valid id, for padding.
        device: the model's.
        budget: most tokens of a forward, padding included.

    Returns:
        [H] a row. A model whose layers keep something else than keys and values computes every row by itself.
    """
    shares = attends_everywhere(model.config)
    shared = [common(rows) if shares else 0 for rows in groups]
    states: list[list[Tensor]] = [[torch.empty(0)] * len(rows) for rows in groups]
    together = [index for index, count in enumerate(shared) if count]
    for part in buckets([shared[index] for index in together], budget):
        members = [together[position] for position in part]
        cache = PrefixCache(int(model.config.get_text_config().num_hidden_layers))
        ids, mask = right_aligned([list(groups[index][0][: shared[index]]) for index in members], fill, device)
        _states(model, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        requests = [(position, row) for position, index in enumerate(members) for row in range(len(groups[index]))]
        rests = [groups[members[position]][row][shared[members[position]] :] for position, row in requests]
        for chunk in buckets([len(rest) for rest in rests], budget):
            cache.rows = torch.tensor([requests[number][0] for number in chunk], device=device)
            before = mask[cache.rows]
            ends = _ends(model, [rests[number] for number in chunk], fill, device, cache, before)
            for number, state in zip(chunk, ends, strict=True):
                position, row = requests[number]
                states[members[position]][row] = state
    apart = [(index, row) for index, count in enumerate(shared) if not count for row in range(len(groups[index]))]
    for chunk in buckets([len(groups[index][row]) for index, row in apart], budget):
        ends = _ends(model, [groups[apart[number][0]][apart[number][1]] for number in chunk], fill, device, None, None)
        for number, state in zip(chunk, ends, strict=True):
            states[apart[number][0]][apart[number][1]] = state
    return states


def common(rows: Sequence[Row]) -> int:
    """Ids that all rows begin with, but for the last id of the shortest: each row has one of its own."""
    alike = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False)))
    return min(alike, min(map(len, rows)) - 1) if len(rows) > 1 else 0


def _ends(
    model: Any, rows: Sequence[Row], fill: int, device: torch.device, cache: PrefixCache | None, before: Tensor | None
) -> Tensor:
    """[B, H] states after the last token of rows that follow what `before` [B, W] marks."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device)
    row_mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    positions = torch.arange(width, device=device)[None].expand(len(rows), width)
    mask = row_mask
    if before is not None:
        positions = positions + before.sum(-1, keepdim=True)
        mask = torch.cat((before, row_mask), 1)
    hidden = _states(model, ids, mask, positions, cache)
    return hidden[torch.arange(len(rows), device=device), row_mask.sum(-1) - 1]


def _states(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: PrefixCache | None) -> Tensor:
    """[B, T, H] of the new tokens."""
    hidden: Tensor = model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state
    return hidden
