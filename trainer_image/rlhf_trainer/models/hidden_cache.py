"""States of the frozen layers in a file that is read as memory, with a journal of what is there.

Rows lie one behind the other. They are computed in groups that depend on the data alone, so that bits do not depend on
where a run was interrupted. Every rank computes its groups and keeps a journal of them, a digest a group: after a kill,
what is there and whole is used, the rest is computed again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_trainer import distributed
from rlhf_trainer.exits import explain_full_disk

RAW: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype("<f4"), torch.bfloat16: np.dtype("<i2")}
"""How a state's numbers are stored; bfloat16, which numpy lacks, as its 16 bits."""


class HiddenStateCache:
    """The states of some rows.

    Args:
        path: The file, shared by all ranks; journals lie beside it.
        lengths: Tokens of each row.
        width: Numbers a state has.
        dtype: float32 or bfloat16.
        made_for: Digest of all that the states depend on.
    """

    def __init__(self, path: Path, lengths: Sequence[int], width: int, dtype: torch.dtype, made_for: str) -> None:
        self._path = path
        self._starts = [0, *np.cumsum(lengths).tolist()]
        self._shape = (self._starts[-1], width)
        self._dtype = dtype
        self._for = made_for
        self._states: Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self._shape) * self._dtype.itemsize

    def fill(
        self,
        groups: Sequence[Sequence[int]],
        compute: Callable[[Sequence[int]], Sequence[Tensor]],
        rank: int,
        tick: Callable[[int, int], None] | None = None,
    ) -> None:
        """Compute what is missing. A collective.

        Args:
            groups: Rows that are computed together; every row in one group.
            compute: States [length, width] of each row of a group, on the CPU.
            rank: This rank.
            tick: Called on every rank after each round with (rounds done, rounds); may raise, to stop.
        """
        with explain_full_disk(self._path.parent, "keeping the frozen layers' states"):
            if rank == 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                if not self._path.exists() or self._path.stat().st_size != self.size:
                    np.memmap(self._path, dtype=RAW[self._dtype], mode="w+", shape=self._shape).flush()
            distributed.barrier()
            out = np.memmap(self._path, dtype=RAW[self._dtype], mode="r+", shape=self._shape)
            journal = self._path.with_suffix(f".{rank}.jsonl")
            done = self._finished(journal, groups, out)
            if not done:
                journal.write_bytes(orjson.dumps({"for": self._for}) + b"\n")
            rounds = math.ceil(len(groups) / distributed.size())
            with journal.open("ab") as lines:
                for number in range(rounds):
                    index = number * distributed.size() + rank
                    if index < len(groups) and index not in done:
                        for row, states in zip(groups[index], compute(groups[index]), strict=True):
                            out[self._place(row)] = _raw(states.to(self._dtype))
                        lines.write(orjson.dumps({"group": index, "sha256": self._digest(groups[index], out)}) + b"\n")
                        lines.flush()
                    if tick is not None:
                        tick(number + 1, rounds)
            out.flush()
            distributed.barrier()
        self._states = _tensor(np.memmap(self._path, dtype=RAW[self._dtype], mode="c", shape=self._shape), self._dtype)

    def read(self, packs: Sequence[Sequence[int]], length: int) -> Tensor:
        """[len(packs), length, width]: the states of each pack's rows one behind the other, then zeros.

        Raises:
            ValueError: nothing was computed yet.
        """
        if self._states is None:
            raise ValueError("no states were computed")
        packed = torch.zeros(len(packs), length, self._shape[1], dtype=self._dtype)
        for target, rows in zip(packed, packs, strict=True):
            at = 0
            for row in rows:
                states = self._states[self._place(row)]
                target[at : at + len(states)] = states
                at += len(states)
        return packed

    def _place(self, row: int) -> slice:
        return slice(self._starts[row], self._starts[row + 1])

    def _digest(self, rows: Sequence[int], states: NDArray[Any]) -> str:
        digest = hashlib.sha256()
        for row in rows:
            digest.update(np.ascontiguousarray(states[self._place(row)]).tobytes())
        return digest.hexdigest()

    def _finished(self, journal: Path, groups: Sequence[Sequence[int]], states: NDArray[Any]) -> set[int]:
        """Groups of the journal whose states are whole; none where it is of something else."""
        if not journal.exists():
            return set()
        lines = journal.read_bytes().splitlines(keepends=True)
        try:
            entries = [orjson.loads(line) for line in lines if line.endswith(b"\n")]
            if not entries or entries[0].get("for") != self._for:
                return set()
            digests = {int(entry["group"]): str(entry["sha256"]) for entry in entries[1:]}
        except (ValueError, KeyError, AttributeError):
            return set()
        if len(entries) < len(lines):
            journal.write_bytes(b"".join(lines[: len(entries)]))  # a torn last line
        return {group for group, sha256 in digests.items() if sha256 == self._digest(groups[group], states)}


def _raw(states: Tensor) -> NDArray[Any]:
    bits = states.view(torch.int16) if states.dtype == torch.bfloat16 else states
    numbers: NDArray[Any] = bits.contiguous().numpy()
    return numbers


def _tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(array).view(dtype)
