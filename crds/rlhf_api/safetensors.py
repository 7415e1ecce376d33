"""The header of a safetensors file: eight bytes of length, then JSON; bounded, no weight is read.

Format: https://github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, mistaken, open_regular

MAX_HEADER = 16 << 20
"""Bytes; the largest models have a tenth of it in a file."""
MAX_DIMENSIONS = 16
"""Of a tensor."""
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Of an element, by dtype."""


def read_header(path: Path) -> dict[str, Any]:
    """The entries of all tensors as they are written, by name; nothing of them is checked.

    Raises:
        ValueError: it is no safetensors file, or cut off in its header; names it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, MAX_HEADER):
            what = mistaken(path)
            if what is not None:
                raise Unreadable(f"{path.name}: found {what}; or fetch it again")
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
    """Elements of all tensors of a whole file, whose bytes follow each other without gaps.

    Raises:
        ValueError: as `read_header`; also where the header is damaged, says other sizes than its tensors or the file
            have, or gives bytes to two tensors or to none.
    """
    spans = []
    for name, entry in read_header(path).items():
        try:
            spans.append(_span(entry))
        except (ValueError, KeyError, TypeError) as error:
            what = (
                f"is no safetensors file (its header's {name[:80]!r} is no tensor, or of another size than its bytes)"
            )
            raise Unreadable(f"{path.name}: {what}; fetch it again") from error
    end = 0
    for start, stop, _ in sorted(spans):
        if start != end:
            raise Unreadable(
                f"{path.name}: is no safetensors file (its tensors overlap or leave a gap at byte {min(start, end)}); "
                "fetch it again"
            )
        end = stop
    with path.open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if 8 + length + end != size:
        raise Unreadable(f"{path.name}: has {size} bytes, its header says {8 + length + end}; fetch it again")
    return sum(count for _, _, count in spans)


def _span(entry: Any) -> tuple[int, int, int]:
    """First byte, end and elements of a tensor.

    Raises:
        ValueError, KeyError, TypeError: the entry is none, or its shape does not fill its bytes.
    """
    start, end = entry["data_offsets"]
    shape = entry["shape"]
    if len(shape) > MAX_DIMENSIONS or not all(
        type(number) is int and 0 <= number < 1 << 60 for number in (start, end, *shape)
    ):
        raise ValueError("numbers that are no sizes")
    count = math.prod(shape)
    if count * BITS[entry["dtype"]] != 8 * (end - start):
        raise ValueError("a shape of other bytes")
    return start, end, count


def _damaged(path: Path) -> Unreadable:
    return Unreadable(f"{path.name}: is no safetensors file (its header is unreadable)")
