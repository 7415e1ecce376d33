"""What the trained layers take: token ids, or the frozen layers' states, computed once where rows come back.

States are computed in batches that depend on the data alone, so that a run that is killed and goes on finds the same
bits, whether the file is still there or made again. Every rank computes its share and reads all.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from rlhf_trainer import gang
from rlhf_trainer.data.batches import buckets
from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.tensors import Packed, Padded, pack_rows, pad
from rlhf_trainer.exits import explain_full_disk
from rlhf_trainer.models.freeze import FrozenTrunk

log = logging.getLogger(__name__)

LIMIT_BYTES = 16 * 2**30
"""Larger states are computed again every time: reading them back would cost more than the layers."""
_STORED: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype("<f4"), torch.bfloat16: np.dtype("<u2")}


class Boundary:
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
        self._states: Tensor | None = None
        self._starts: list[int] = []

    @property
    def cached(self) -> bool:
        """Whether states are read rather than computed."""
        return self._states is not None

    def batch(
        self, rows: Sequence[Encoded], indices: Sequence[int] | None = None
    ) -> tuple[dict[str, Tensor | None], Padded]:
        """Rows padded on the right: what a decoder takes, and the padded rows themselves.

        Args:
            rows: The rows.
            indices: Their numbers among the rows that `remember` was given, to read their states.

        Returns:
            ({`input_ids` or `inputs_embeds`, `attention_mask`, `position_ids`} on the device, the rows on the CPU).
        """
        padded = pad(rows, self._pad)
        alone = None if indices is None else [[index] for index in indices]
        return self._inputs(padded.input_ids, padded.attention_mask, padded.position_ids, alone), padded

    def packs(
        self, packs: Sequence[Sequence[Encoded]], indices: Sequence[Sequence[int]] | None = None
    ) -> tuple[dict[str, Tensor | None], Packed]:
        """Packed rows: what a decoder takes (no mask: positions tell sequences apart), and the pack itself."""
        packed = pack_rows(packs, self._pad)
        return self._inputs(packed.input_ids, None, packed.position_ids, indices), packed

    def _inputs(
        self, ids: Tensor, mask: Tensor | None, places: Tensor, indices: Sequence[Sequence[int]] | None
    ) -> dict[str, Tensor | None]:
        device = self._device
        common = {"attention_mask": None if mask is None else mask.to(device), "position_ids": places.to(device)}
        if self._trunk is None:
            return {"input_ids": ids.to(device), **common}
        if self._states is None or indices is None:
            hidden = self._trunk(ids.to(device), common["attention_mask"], places.to(device))
        else:
            hidden = self._read(indices, ids.shape[1]).to(device)
        return {"inputs_embeds": hidden, **common}

    def _read(self, indices: Sequence[Sequence[int]], width: int) -> Tensor:
        states = self._states
        if states is None:
            raise ValueError("no states were computed")
        hidden = torch.zeros(len(indices), width, states.shape[1], dtype=states.dtype)
        for row, members in zip(hidden, indices, strict=True):
            at = 0
            for index in members:
                found = states[self._starts[index] : self._starts[index + 1]]
                row[at : at + len(found)] = found
                at += len(found)
        return hidden

    def remember(self, rows: Sequence[Encoded], file: Path, key: str, budget: int, *, dtype: torch.dtype) -> bool:
        """Compute the states of all rows once, into a file that is read as memory. A collective.

        Args:
            rows: All rows that will come, in an order that depends on the data alone.
            file: Where states lie (shared by all ranks); used again if it is whole and was made for the same.
            key: What the states depend on beside the rows: the model's digest, the cut.
            budget: Most tokens of a forward.
            dtype: Of the states.

        Returns:
            Whether they are cached; False without frozen layers or beyond LIMIT_BYTES.
        """
        if self._trunk is None:
            return False
        width = int(self._trunk.decoder.config.hidden_size)  # type: ignore[union-attr,arg-type]  # a transformers config
        self._starts = [0, *np.cumsum([len(row) for row in rows]).tolist()]
        shape = (self._starts[-1], width)
        if math.prod(shape) * dtype.itemsize > LIMIT_BYTES:
            log.info(
                "states of the frozen layers would take %.1f GiB: computed every time",
                math.prod(shape) * dtype.itemsize / 2**30,
            )
            return False
        digest = _digest(rows, key, dtype, budget)
        rank = torch.distributed.get_rank() if gang.size() > 1 else 0
        if not gang.broadcast(rank == 0 and _whole(file, digest)):
            with explain_full_disk(file.parent, "keeping the frozen layers' states"):
                self._compute(rows, file, shape, budget, dtype, rank)
                gang.barrier()
                if rank == 0:
                    _seal(file, digest)
            gang.barrier()
        array = np.memmap(file, dtype=_STORED[dtype], mode="c", shape=shape)
        self._states = torch.from_numpy(array.view(np.int16) if dtype == torch.bfloat16 else array).view(dtype)
        return True

    def _compute(
        self, rows: Sequence[Encoded], file: Path, shape: tuple[int, int], budget: int, dtype: torch.dtype, rank: int
    ) -> None:
        if self._trunk is None:
            raise ValueError("no frozen layers")
        if rank == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            _seal_path(file).unlink(missing_ok=True)
            np.memmap(file, dtype=_STORED[dtype], mode="w+", shape=shape).flush()
        gang.barrier()
        out = np.memmap(file, dtype=_STORED[dtype], mode="r+", shape=shape)
        groups = buckets([len(row) for row in rows], budget)
        for group in groups[rank :: gang.size()]:
            padded = pad([rows[index] for index in group], self._pad)
            places = (padded.input_ids, padded.attention_mask, padded.position_ids)
            hidden = self._trunk(*(tensor.to(self._device) for tensor in places)).to("cpu", dtype)
            raw = hidden.view(torch.int16).numpy().view(np.uint16) if dtype == torch.bfloat16 else hidden.numpy()
            for number, index in enumerate(group):
                out[self._starts[index] : self._starts[index + 1]] = raw[number, : len(rows[index])]
        out.flush()


def _digest(rows: Sequence[Encoded], key: str, dtype: torch.dtype, budget: int) -> str:
    found = hashlib.sha256(f"{key}\0{dtype}\0{budget}\0{len(rows)}".encode())
    for row in rows:
        found.update(np.asarray(row.ids, dtype="<i8").tobytes() + b"\0")
    return found.hexdigest()


def _seal_path(file: Path) -> Path:
    return file.with_suffix(".json")


def _seal(file: Path, digest: str) -> None:
    """Written last: what the states were made for, and their digest."""
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    half = file.with_suffix(".json.tmp")
    half.write_bytes(orjson.dumps({"for": digest, "sha256": sha256}))
    half.rename(_seal_path(file))


def _whole(file: Path, digest: str) -> bool:
    try:
        seal = orjson.loads(_seal_path(file).read_bytes())
        with file.open("rb") as content:
            return bool(seal["for"] == digest) and bool(
                seal["sha256"] == hashlib.file_digest(content, "sha256").hexdigest()
            )
    except (OSError, ValueError, KeyError, TypeError):
        return False
