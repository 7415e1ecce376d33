"""A key/value cache of beginnings: several continuations of each are computed without computing it again.

Beginnings are right-aligned, so that what follows any of them starts at one column.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PrefixLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of one layer: [beginnings, heads, columns, size]."""

    is_sliding = False

    def __init__(self, owner: PrefixCache) -> None:
        super().__init__()
        self._owner = weakref.proxy(owner)  # a cycle would keep gigabytes until the collector comes by

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep the beginnings; of continuations, give what they attend to and keep nothing."""
        rows = self._owner.rows
        if rows is None:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        return torch.cat((self.keys[rows], key_states), 2), torch.cat((self.values[rows], value_states), 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self._owner.rows is None else int(self.keys.shape[2])

    def get_max_length(self) -> int:
        return -1


class PrefixCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """All layers' keys and values. The first forward is that of the beginnings."""

    def __init__(self, layers: int) -> None:
        self.rows: Tensor | None = None
        """[R] which beginning each row of the next forward continues; None: they are the beginnings."""
        super().__init__(layers=[PrefixLayer(self) for _ in range(layers)])
