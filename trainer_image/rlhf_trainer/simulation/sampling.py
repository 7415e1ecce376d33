"""What a row draws: a function of seed and row alone, the same on every rank, in every order and version."""

from __future__ import annotations

import numpy as np

PHRASES, SHOWN, ORDER = 0x50687261, 0x53686F77, 0x4F726465
"""Streams that have nothing to do with one another, nor with sampling's."""


FEW, MANY = 64, 4096
"""So few of so many are drawn one by one: a permutation of all for each row would be dear."""


def drawn(seed: int, stream: int, row: int, count: int, of: int) -> list[int]:
    """`count` different numbers below `of` that belong to a row; fewer where `of` is smaller.

    Raw Philox output, which numpy keeps stable over versions, sorted: the first `count` places of a permutation. Of
    many, the first `count` different remainders of raw numbers (64 bits: even to 1 in 2^40).
    """
    raw = np.random.Philox(counter=[0, row, 0, 0], key=[seed, stream])
    if count <= FEW and of > MANY:
        picked: dict[int, None] = {}
        while len(picked) < count:
            picked[int(raw.random_raw()) % of] = None
        return list(picked)
    keys = np.atleast_1d(raw.random_raw(of))
    return [int(index) for index in np.argsort(keys, kind="stable")[:count]]
