"""The header of a safetensors file: eight bytes of length, then JSON; bounded, no weight is read.

Format: https://github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import math
import os
from itertools import chain
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, open_regular

MAX_HEADER = 16 << 20
"""Bytes; the largest models have a tenth of it in a file."""


def read_header(path: Path) -> dict[str, Any]:
    """The entries of all tensors as they are written, by name; nothing of them is checked.

    Raises:
        ValueError: it is no safetensors file, or cut off in its header; names it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, MAX_HEADER):
            raise Unreadable(f"{path.name}: is no safetensors file, or cut off ({size} bytes); fetch it again")
        content = file.read(length)
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(header, dict):
        raise _damaged(path)
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def count_weights(path: Path) -> int:
    """Elements of all tensors of a whole file.

    Raises:
        ValueError: as `read_header`; also where the header is damaged, or says another size than the file has.
    """
    tensors = read_header(path)
    try:
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
        shapes = [entry["shape"] for entry in tensors.values()]
        if not all(type(number) is int and 0 <= number < 1 << 60 for number in chain(ends, *shapes)):
            raise ValueError("numbers that are no sizes")
        count: int = sum(math.prod(shape) for shape in shapes)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _damaged(path) from error
    with path.open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if 8 + length + max(ends, default=0) != size:
        raise Unreadable(
            f"{path.name}: has {size} bytes, its header says {8 + length + max(ends, default=0)}; fetch it again"
        )
    return count


def _damaged(path: Path) -> Unreadable:
    return Unreadable(f"{path.name}: is no safetensors file (its header is unreadable)")
