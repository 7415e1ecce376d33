"""The header of a safetensors file: eight bytes of length, then JSON; bounded, no weight is read.

Format: https://github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path

from rlhf_api.bounded import Unreadable, open_regular

MAX_HEADER = 16 << 20
"""Bytes; the largest models have a tenth of it in a file."""


def count_weights(path: Path) -> int:
    """Elements of all tensors of a file.

    Raises:
        ValueError: it is no safetensors file, cut off or damaged; names it.
    """
    with open_regular(path) as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, MAX_HEADER):
            raise Unreadable(f"{path.name}: is no safetensors file, or cut off ({size} bytes); fetch it again")
        header = file.read(length)
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
        shapes = [entry["shape"] for entry in tensors.values()]
        if not all(isinstance(number, int) and 0 <= number < 1 << 60 for number in chain(ends, *shapes)):
            raise ValueError("numbers that are no sizes")
        count: int = sum(math.prod(shape) for shape in shapes)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Unreadable(f"{path.name}: is no safetensors file (its header is unreadable)") from error
    if 8 + length + max(ends, default=0) != size:
        raise Unreadable(
            f"{path.name}: has {size} bytes, its header says {8 + length + max(ends, default=0)}; fetch it again"
        )
    return count
