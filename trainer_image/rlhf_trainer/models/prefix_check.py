"""Whether a model computes pairs that share a prefix, and packs, as it computes their rows: tried, not assumed.

Decoders differ in what they make of a mask of four axes and of given positions: windows, recurrent layers and
positions counted inside the model do not obey. A small pair or pack and its rows are computed, and compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.shared_prefix import SharedPrefixPair
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs

TRIED_TOKENS = 16
"""Tokens of the prompt and of either answer that are tried."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference between a pair's states and its rows', as a share of their norm: rounding only."""


def pairs_as_rows(decoder: nn.Module, trunk_inputs: FrozenTrunkInputs, sample: SharedPrefixPair, longest: int) -> bool:
    """Whether a decoder gives the answers of a pair, as one sequence, the states they have as rows.

    Args:
        decoder: The trained part.
        trunk_inputs: Of the frozen part below it.
        sample: A pair of the data.
        longest: Tokens of the longest row: attention may not be windowed below it.
    """
    config = decoder.config
    window = getattr(config, "sliding_window", None)
    if isinstance(window, int) and window < longest and getattr(config, "use_sliding_window", True):
        return False
    if not {"attention_mask", "position_ids"} <= set(inspect.signature(decoder.forward).parameters):
        return False
    pair = _short(sample)
    changed = replace(pair, first=replace(pair.first, ids=[*pair.first.ids[: pair.shared], *_changed(pair)]))
    training = decoder.training
    decoder.eval()
    rows, shared, beside = _rows(decoder, trunk_inputs, pair), _pair(decoder, trunk_inputs, pair), None
    if changed.shared == pair.shared:
        beside = _pair(decoder, trunk_inputs, changed)[1]
    decoder.train(training)
    limit = TOLERANCE.get(rows.dtype, 0.0)
    near = bool(((shared - rows).norm(dim=-1) <= limit * rows.norm(dim=-1)).all())
    return near and (beside is None or bool((beside - shared[1]).norm() <= limit * shared[1].norm() / 10))


def packs_as_rows(decoder: nn.Module, trunk_inputs: FrozenTrunkInputs, samples: Sequence[Encoded]) -> bool:
    """Whether a decoder gives packed rows the states they have apart: positions that restart must part them.

    Args:
        decoder: The trained part.
        trunk_inputs: Of the frozen part below it.
        samples: Rows of the data; the first tokens of each are packed.
    """
    rows = [Encoded(row.ids[:TRIED_TOKENS], row.mask[:TRIED_TOKENS]) for row in samples]
    training = decoder.training
    decoder.eval()
    with torch.no_grad():
        packed = _states(decoder, trunk_inputs.packs([rows])[0])[0]
        inputs, padded = trunk_inputs.batch(rows)
        apart = _states(decoder, inputs)[padded.attention_mask == 1]
    decoder.train(training)
    limit = TOLERANCE.get(apart.dtype, 0.0)
    return bool(((packed - apart).norm(dim=-1) <= limit * apart.norm(dim=-1)).all())


def _short(pair: SharedPrefixPair) -> SharedPrefixPair:
    """The pair with at most TRIED_TOKENS of each of its three parts."""
    start = pair.first.ids[: min(pair.shared, TRIED_TOKENS)]
    parts = [[*start, *row.ids[pair.shared : pair.shared + TRIED_TOKENS]] for row in (pair.first, pair.second)]
    first, second = (Encoded(ids, [1] * len(ids)) for ids in parts)
    return SharedPrefixPair(first, second)


def _changed(pair: SharedPrefixPair) -> list[int]:
    """Other ids of the first answer alone: the second's states may not depend on them."""
    answer = pair.first.ids[pair.shared :]
    return [pair.first.ids[0] if token != pair.first.ids[0] else pair.second.ids[-1] for token in answer]


@torch.no_grad()
def _pair(decoder: nn.Module, trunk_inputs: FrozenTrunkInputs, pair: SharedPrefixPair) -> Tensor:
    """[2, H] last states of both answers, computed as one sequence."""
    inputs, laid = trunk_inputs.pairs([pair])
    last: Tensor = _states(decoder, inputs)[0, laid.ends[:, 0]]
    return last


@torch.no_grad()
def _rows(decoder: nn.Module, trunk_inputs: FrozenTrunkInputs, pair: SharedPrefixPair) -> Tensor:
    """[2, H] last states of both answers, computed as rows."""
    inputs, padded = trunk_inputs.batch([pair.first, pair.second])
    last: Tensor = _states(decoder, inputs)[torch.arange(2), padded.attention_mask.sum(1) - 1]
    return last


def _states(decoder: nn.Module, inputs: dict[str, Tensor | None]) -> Tensor:
    device = next(decoder.parameters()).device  # not yet the engine's
    moved = {name: None if value is None else value.to(device) for name, value in inputs.items()}
    hidden: Tensor = decoder(**moved, use_cache=False).last_hidden_state
    return hidden
