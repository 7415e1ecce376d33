"""Which rows an optimizer step takes, and how they become micro-batches and packs. Pure: no tensors, no state.

Order is a function of seed and epoch, rows of a step a function of the step: to resume, a stage needs its step alone.
Micro-batches are formed inside a step, so that they change speed and memory but never which rows a step sees; losses
are divided by global counts, so that they change no result either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Schedule:
    """Rows by step, over all ranks."""

    rows: int
    """Rows of the data."""
    batch_size: int
    """Rows an optimizer step takes; the last step of an epoch takes what is left."""
    epochs: float = 1.0
    """Passes; may be a fraction, rounded up to whole steps."""
    max_steps: int | None = None
    """Upper bound of the steps."""
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row was taken once."""
        return math.ceil(self.rows / self.batch_size)

    @property
    def total(self) -> int:
        """Steps altogether."""
        steps = max(1, math.ceil(self.epochs * self.steps_per_epoch - 1e-9)) if self.rows else 0
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def step(self, step: int) -> list[int]:
        """Indices of the rows that a step (from 0) takes.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= step < self.total:
            raise IndexError(f"step {step} of {self.total}")
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self.batch_size
        return list(order(self.rows, epoch, self.seed)[start : start + self.batch_size])


@lru_cache(maxsize=4)
def order(rows: int, epoch: int, seed: int) -> tuple[int, ...]:
    """A permutation of range(rows): a function of seed and epoch alone, the same on every rank and version.

    Rows are sorted by raw Philox output, which numpy guarantees to be stable across versions (its shuffles are not).
    """
    keys = np.random.Philox(key=[seed, epoch]).random_raw(rows)
    return tuple(int(index) for index in np.argsort(np.atleast_1d(keys), kind="stable"))


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward on one rank."""

    rows: tuple[int, ...]
    """Indices of the rows."""
    dummy: bool = False
    """Present only so that every rank has as many forwards: its loss has weight 0."""


def micro_batches(lengths: Sequence[int], rows: Sequence[int], budget: int, world: int = 1) -> list[list[MicroBatch]]:
    """Length-bucketed micro-batches of one step, a list a rank, all of the same length.

    Args:
        lengths: tokens of each row of the data.
        rows: the step's rows, indices into `lengths`.
        budget: most tokens of a forward, padding included: rows x longest. A row beyond it goes alone.
        world: ranks.

    Every row is in exactly one micro-batch; where there are fewer rows than ranks, dummies repeat the shortest row.
    """
    if not rows:
        return [[] for _ in range(world)]
    groups = buckets([lengths[row] for row in rows], budget)
    groups = _whole_rounds(groups, world)
    batches = [MicroBatch(tuple(rows[index] for index in group)) for group in groups]
    shortest = min(rows, key=lambda row: (lengths[row], row))
    while len(batches) % world:
        batches.append(MicroBatch((shortest,), dummy=True))
    cost = {batch: len(batch.rows) * max(lengths[row] for row in batch.rows) for batch in batches}
    batches.sort(key=lambda batch: (-cost[batch], batch.rows, batch.dummy))
    ranks: list[list[MicroBatch]] = [[] for _ in range(world)]
    for start in range(0, len(batches), world):  # back and forth, so that no rank always gets the longest
        dealt = batches[start : start + world]
        for rank, batch in enumerate(dealt if (start // world) % 2 == 0 else reversed(dealt)):
            ranks[rank].append(batch)
    return ranks


def buckets(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped by length, longest first, each group within `budget` tokens (count x longest)."""
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if groups and (len(groups[-1]) + 1) * longest <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def _whole_rounds(groups: list[list[int]], world: int) -> list[list[int]]:
    """Split groups until their number is a multiple of `world`, or none can be split."""
    groups = [list(group) for group in groups]
    while len(groups) % world:
        largest = max(groups, key=len)
        if len(largest) == 1:
            break
        middle = (len(largest) + 1) // 2
        groups.remove(largest)
        groups += [largest[:middle], largest[middle:]]
    return groups


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit decreasing: indices by row of `capacity` tokens. Every index once; a longer one goes alone."""
    packs: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        target = next((number for number, room in enumerate(free) if room >= lengths[index]), None)
        if target is None:
            packs.append([index])
            free.append(capacity - lengths[index])
        else:
            packs[target].append(index)
            free[target] -= lengths[index]
    return packs
