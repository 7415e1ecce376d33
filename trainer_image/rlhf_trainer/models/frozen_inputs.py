"""What the trained layers take: token ids, or the frozen layers' states, computed once where rows come back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlhf_trainer.data.batches import buckets
from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.collate import Packed, Padded, pack_rows, pad
from rlhf_trainer.data.shared_prefix import SharedPrefixBatch, SharedPrefixPair, collate_shared_prefix
from rlhf_trainer.models.freeze import FrozenTrunk
from rlhf_trainer.models.hidden_cache import HiddenStateCache

log = logging.getLogger(__name__)

LIMIT_BYTES = 16 * 2**30
"""Larger states are computed again every time: reading them back would cost more than the layers."""
GROUP_TOKENS = 2048
"""Tokens of a forward when states are kept. Fixed: the bits of a state must not depend on how a stage is executed."""


class FrozenTrunkInputs:
    """Gives batches of rows to the trained part of a model.

    Args:
        trunk: The frozen layers; None where all are trained.
        device: Where batches go.
        pad_id: Id of PAD.
    """

    def __init__(self, trunk: FrozenTrunk | None, device: torch.device, pad_id: int) -> None:
        self._trunk = trunk
        self._device = device
        self._pad = pad_id
        self._states: HiddenStateCache | None = None
        self._kept: list[int] = []

    @property
    def cached(self) -> bool:
        """Whether states are read rather than computed."""
        return self._states is not None

    def batch(
        self, rows: Sequence[Encoded], indices: Sequence[int] | None = None
    ) -> tuple[dict[str, Tensor | None], Padded]:
        """Rows padded on the right: what a decoder takes, and the padded rows themselves.

        No mask goes to the decoder: a causal model never looks to the right, where all the padding is, and without a
        mask its attention takes the quicker kernel. What comes out at padding has no meaning.

        Args:
            rows: The rows.
            indices: Their numbers among the rows that `cache_hidden_states` was given, to read their states.

        Returns:
            ({`input_ids` or `inputs_embeds`, `position_ids`} on the device, the rows on the CPU).
        """
        padded = pad(rows, self._pad)
        alone = None if indices is None else [[index] for index in indices]
        places = torch.arange(padded.input_ids.shape[1])[None]
        return self._inputs(padded.input_ids, places, alone), padded

    def packs(
        self, packs: Sequence[Sequence[Encoded]], indices: Sequence[Sequence[int]] | None = None
    ) -> tuple[dict[str, Tensor | None], Packed]:
        """Packed rows: what a decoder takes (no mask: positions tell sequences apart), and the pack itself."""
        packed = pack_rows(packs, self._pad)
        return self._inputs(packed.input_ids, packed.position_ids, indices), packed

    def pairs(
        self, pairs: Sequence[SharedPrefixPair], indices: Sequence[int] | None = None
    ) -> tuple[dict[str, Tensor | None], SharedPrefixBatch]:
        """Pairs that share their prompt: what a decoder takes, with a mask of four axes, and the layout itself."""
        laid = collate_shared_prefix(pairs, self._pad)
        alone = None if indices is None else [[index] for index in indices]
        return self._inputs(laid.input_ids, laid.position_ids, alone, laid.visible), laid

    def _inputs(
        self, ids: Tensor, places: Tensor, indices: Sequence[Sequence[int]] | None, visible: Tensor | None = None
    ) -> dict[str, Tensor | None]:
        places = places.to(self._device)
        visible = None if visible is None else visible.to(self._device)
        common = {"attention_mask": visible, "position_ids": places}
        if self._trunk is None:
            return {"input_ids": ids.to(self._device), **common}
        if self._states is None or indices is None:
            hidden = self._trunk(ids.to(self._device), visible, places)
        else:
            numbers = [[self._kept[index] for index in pack] for pack in indices]
            hidden = self._states.read(numbers, ids.shape[1]).to(self._device)
        return {"inputs_embeds": hidden, **common}

    def cache_hidden_states(
        self,
        rows: Sequence[Encoded] | Sequence[SharedPrefixPair],
        file: Path,
        key: str,
        *,
        dtype: torch.dtype,
        tick: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Compute the states of all rows once. A collective; goes on where an earlier run was interrupted.

        Rows of the same ids are computed and kept once.

        Args:
            rows: All rows, or all pairs, that will come, in an order that depends on the data alone.
            file: Where states lie, shared by all ranks.
            key: What the states depend on beside the rows: the model's digest, the cut.
            dtype: Of the states.
            tick: Called on every rank after each round with (rounds done, rounds); may raise, to stop.

        Returns:
            Whether they are kept; False without frozen layers or beyond LIMIT_BYTES.
        """
        trunk = self._trunk
        if trunk is None:
            return False
        keys = [_key(row) for row in rows]
        numbers: dict[tuple[int, ...], int] = {}
        self._kept = [numbers.setdefault(key_of_row, len(numbers)) for key_of_row in keys]
        row_of_key: dict[tuple[int, ...], Encoded | SharedPrefixPair] = dict(zip(keys, rows, strict=True))
        distinct = [row_of_key[key_of_row] for key_of_row in numbers]
        lengths = [len(row) for row in distinct]
        width = int(trunk.decoder.config.hidden_size)  # type: ignore[union-attr,arg-type]  # a transformers config
        states = HiddenStateCache(file, lengths, width, dtype, _digest(list(numbers), key, dtype))
        if states.size > LIMIT_BYTES:
            log.info("states of the frozen layers would take %.1f GiB: computed every time", states.size / 2**30)
            return False

        def compute(group: Sequence[int]) -> list[Tensor]:
            hidden = self._states_of([distinct[index] for index in group]).cpu()
            return [hidden[number, : lengths[index]] for number, index in enumerate(group)]

        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        states.fill(buckets(lengths, GROUP_TOKENS), compute, rank, tick)
        self._states = states
        return True

    def _states_of(self, rows: Sequence[Encoded | SharedPrefixPair]) -> Tensor:
        """[B, T, H] computed now."""
        pairs = [row for row in rows if isinstance(row, SharedPrefixPair)]
        inputs = self.pairs(pairs)[0] if pairs else self.batch([row for row in rows if isinstance(row, Encoded)])[0]
        hidden = inputs["inputs_embeds"]
        assert hidden is not None
        return hidden


def _key(row: Encoded | SharedPrefixPair) -> tuple[int, ...]:
    """What a row's states depend on beside the model."""
    return (row.shared, len(row.first), *row.ids) if isinstance(row, SharedPrefixPair) else tuple(row.ids)


def _digest(rows: Sequence[tuple[int, ...]], key: str, dtype: torch.dtype) -> str:
    digest = hashlib.sha256(f"{key}\0{dtype}\0{GROUP_TOKENS}\0{len(rows)}".encode())
    for row in rows:
        digest.update(np.asarray(row, dtype="<i8").tobytes() + b"\0")
    return digest.hexdigest()
