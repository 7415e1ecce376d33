"""Whether a model computes forks (rlhf_trainer.data.shared_prefix) and packs as it computes their rows: tried, not assumed.

Decoders differ in what they make of a mask of four axes and of given positions: windows, recurrent layers and
positions counted inside the model do not obey. A small fork or pack and its rows are computed, and compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.shared_prefix import Fork
from rlhf_trainer.models.frozen_inputs import Boundary

TRIED_TOKENS = 16
"""Tokens of the prompt and of either answer that are tried."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference between a fork's states and its rows', as a share of their norm: rounding only."""


def forks_as_rows(decoder: nn.Module, boundary: Boundary, sample: Fork, longest: int) -> bool:
    """Whether a decoder gives the answers of a fork the states they have as rows.

    Args:
        decoder: The trained part.
        boundary: Of the frozen part below it.
        sample: A pair of the data.
        longest: Tokens of the longest row: attention may not be windowed below it.
    """
    config = decoder.config
    window = getattr(config, "sliding_window", None)
    if isinstance(window, int) and window < longest and getattr(config, "use_sliding_window", True):
        return False
    if not {"attention_mask", "position_ids"} <= set(inspect.signature(decoder.forward).parameters):
        return False
    fork = _short(sample)
    changed = replace(fork, first=replace(fork.first, ids=[*fork.first.ids[: fork.shared], *_changed(fork)]))
    training = decoder.training
    decoder.eval()
    rows, forked, beside = _rows(decoder, boundary, fork), _fork(decoder, boundary, fork), None
    if changed.shared == fork.shared:
        beside = _fork(decoder, boundary, changed)[1]
    decoder.train(training)
    limit = TOLERANCE.get(rows.dtype, 0.0)
    near = bool(((forked - rows).norm(dim=-1) <= limit * rows.norm(dim=-1)).all())
    return near and (beside is None or bool((beside - forked[1]).norm() <= limit * forked[1].norm() / 10))


def packs_as_rows(decoder: nn.Module, boundary: Boundary, samples: Sequence[Encoded]) -> bool:
    """Whether a decoder gives packed rows the states they have apart: positions that restart must part them.

    Args:
        decoder: The trained part.
        boundary: Of the frozen part below it.
        samples: Rows of the data; the first tokens of each are packed.
    """
    rows = [Encoded(row.ids[:TRIED_TOKENS], row.mask[:TRIED_TOKENS]) for row in samples]
    training = decoder.training
    decoder.eval()
    with torch.no_grad():
        packed = _states(decoder, boundary.packs([rows])[0])[0]
        inputs, padded = boundary.batch(rows)
        apart = _states(decoder, inputs)[padded.attention_mask == 1]
    decoder.train(training)
    limit = TOLERANCE.get(apart.dtype, 0.0)
    return bool(((packed - apart).norm(dim=-1) <= limit * apart.norm(dim=-1)).all())


def _short(fork: Fork) -> Fork:
    """The fork with at most TRIED_TOKENS of each of its three parts."""
    start = fork.first.ids[: min(fork.shared, TRIED_TOKENS)]
    parts = [[*start, *row.ids[fork.shared : fork.shared + TRIED_TOKENS]] for row in (fork.first, fork.second)]
    first, second = (Encoded(ids, [1] * len(ids)) for ids in parts)
    return Fork(first, second)


def _changed(fork: Fork) -> list[int]:
    """Other ids of the first answer alone: the second's states may not depend on them."""
    answer = fork.first.ids[fork.shared :]
    return [fork.first.ids[0] if token != fork.first.ids[0] else fork.second.ids[-1] for token in answer]


@torch.no_grad()
def _fork(decoder: nn.Module, boundary: Boundary, fork: Fork) -> Tensor:
    """[2, H] last states of both answers, computed as a fork."""
    inputs, laid = boundary.forks([fork])
    last: Tensor = _states(decoder, inputs)[0, laid.ends[:, 0]]
    return last


@torch.no_grad()
def _rows(decoder: nn.Module, boundary: Boundary, fork: Fork) -> Tensor:
    """[2, H] last states of both answers, computed as rows."""
    inputs, padded = boundary.batch([fork.first, fork.second])
    last: Tensor = _states(decoder, inputs)[torch.arange(2), padded.attention_mask.sum(1) - 1]
    return last


def _states(decoder: nn.Module, inputs: dict[str, Tensor | None]) -> Tensor:
    device = next(decoder.parameters()).device  # not yet the engine's
    moved = {name: None if value is None else value.to(device) for name, value in inputs.items()}
    hidden: Tensor = decoder(**moved, use_cache=False).last_hidden_state
    return hidden
