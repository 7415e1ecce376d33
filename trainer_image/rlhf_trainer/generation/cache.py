"""A key/value cache whose rows leave as they finish.

Rows are right-aligned at one column, so that a decoding step writes one column for all of them. Leaving moves the last
row into the hole: no more than one row is copied for each that leaves. Columns that are padding in every row left are
not read.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from rlhf_trainer.models.lengths import attends_everywhere


class EvictingLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of one layer, [rows, heads, columns, size], allocated once.

    Zeros, not what lies there: a masked column still counts as 0 x value, and 0 x NaN is NaN.
    """

    is_sliding = False

    def __init__(self, owner: EvictingCache) -> None:
        super().__init__()
        self._owner = weakref.proxy(owner)  # a cycle would keep gigabytes until the collector comes by

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self._owner.rows, self._owner.columns
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_zeros((rows, key_states.shape[1], columns, key_states.shape[3]))
        self.values = value_states.new_zeros((rows, value_states.shape[1], columns, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns; gives what the queries attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        owner = self._owner
        rows, new = owner.writing, slice(owner.end, owner.end + key_states.shape[2])
        self.keys[rows, :, new] = key_states
        self.values[rows, :, new] = value_states
        attended = slice(owner.start, new.stop)
        return self.keys[rows, :, attended], self.values[rows, :, attended]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.end - self._owner.start + query_length, 0

    def get_seq_length(self) -> int:
        return int(self._owner.end - self._owner.start)

    def get_max_length(self) -> int:
        return -1

    def move(self, source: int, target: int, used: slice) -> None:
        """Copy a row's columns."""
        self.keys[target, :, used] = self.keys[source, :, used]
        self.values[target, :, used] = self.values[source, :, used]


class EvictingCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """All layers' keys and values.

    Args:
        layers: of the model.
        rows: at the start.
        columns: the longest prompt and all tokens to come.
    """

    def __init__(self, layers: int, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        self.writing = slice(0, rows)
        self.start = 0
        """First column that the next forward reads."""
        self.end = 0
        """First column that it writes."""
        super().__init__(layers=[EvictingLayer(self) for _ in range(layers)])

    def prefill(self, rows: slice, end: int, width: int) -> None:
        """The next forward writes prompts, right-aligned at column `end`, `width` columns wide."""
        self.writing, self.start, self.end = rows, end - width, end - width

    def decode(self, live: int, start: int, end: int) -> None:
        """The next forward writes column `end` of the first `live` rows, which use no column before `start`."""
        self.writing, self.start, self.end = slice(0, live), start, end

    def move(self, source: int, target: int, filled: int) -> None:
        """Let a row take another's place; columns up to `filled` are written."""
        for layer in self.layers:
            layer.move(source, target, slice(self.start, filled))


def new_cache(config: Any, rows: int, columns: int) -> EvictingCache:
    """A cache for a model's configuration.

    Raises:
        ValueError: a layer keeps something else than keys and values.
    """
    text = config.get_text_config()
    if not attends_everywhere(config):
        kinds = sorted(set(text.layer_types))
        raise ValueError(f"{config.model_type}: layers of kinds {kinds}; sampling needs attention layers only")
    return EvictingCache(int(text.num_hidden_layers), rows, columns)


def right_aligned(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """([B, W] ids, [B, W] mask) of prompts, padded left to the longest."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
