"""The header of a GGUF file: its metadata and tensor shapes, in milliseconds (gguf.GGUFReader takes seconds).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.bounded import open_regular

MAGIC = b"GGUF"
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
MAX_BYTES = 128 << 20
"""Of a header: vocabularies of a million tokens have a quarter of it."""
MAX_STRINGS = 1 << 20
"""In the arrays of a header, all together: tokens and merges."""
MAX_ENTRIES = 1 << 16
"""Keys, and tensors, of a header."""
MAX_DEPTH = 2
"""Arrays in arrays."""
MAX_WEIGHTS = 1 << 50
"""Of all tensors together."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    fields: dict[str, Any]
    """Scalars and strings by key; of an array its length."""
    parameters: int
    """Weights of all tensors."""


class _Damaged(Exception):
    """What is wrong with a header."""


def read_header(path: Path) -> Header:
    """Read the header alone.

    Raises:
        ValueError: it is no GGUF file of version 2 or 3, cut off or damaged in its header, or the header is beyond the
            bounds above; names the file.
    """
    with open_regular(path) as file:
        header = _Cursor(file.read(MAX_BYTES))
    if header.content[:4] != MAGIC:
        raise ValueError(f"{path.name}: is no GGUF file (it does not start with {MAGIC.decode()})")
    try:
        return _read(header)
    except (_Damaged, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: the GGUF header is damaged or cut off ({error})") from error


def _read(header: _Cursor) -> Header:
    header.skip(len(MAGIC))
    version = header.number("<I")
    if version not in (2, 3):
        raise _Damaged(f"GGUF version {version}; expected 2 or 3")
    tensors, pairs = (header.count(MAX_ENTRIES) for _ in range(2))
    fields = {}
    for _ in range(pairs):
        key = header.string()
        fields[key] = _value(header, header.number("<I"))
    parameters = sum(_tensor(header) for _ in range(tensors))
    if parameters > MAX_WEIGHTS:
        raise _Damaged(f"tensors of more than {MAX_WEIGHTS} weights")
    return Header(fields, parameters)


@dataclass
class _Cursor:
    """Reads bytes in order, and none behind their end."""

    content: bytes
    at: int = 0
    looked: int = 0
    """Strings and arrays in arrays, so far."""

    def skip(self, count: int) -> int:
        """Go on by so many bytes; gives where they begin."""
        start = self.at
        if count > len(self.content) - start:
            raise _Damaged(f"{count} bytes expected at {start}")
        self.at = start + count
        return start

    def number(self, code: str) -> Any:
        return struct.unpack_from(code, self.content, self.skip(struct.calcsize(code)))[0]

    def count(self, most: int) -> int:
        count: int = self.number("<Q")
        if count > most:
            raise _Damaged(f"a number of {count}; expected at most {most}")
        return count

    def string(self) -> str:
        start = self.skip(self.count(MAX_BYTES))
        return self.content[start : self.at].decode()

    def spend(self, count: int) -> None:
        """Count values of arrays that are looked at one by one."""
        self.looked += count
        if self.looked > MAX_STRINGS:
            raise _Damaged(f"arrays of more than {MAX_STRINGS} strings")

    def skip_strings(self, count: int) -> None:
        self.spend(count)
        for _ in range(count):
            self.skip(struct.unpack_from("<Q", self.content, self.skip(8))[0])


def _value(header: _Cursor, kind: int) -> Any:
    if kind == STRING:
        return header.string()
    if kind == ARRAY:
        return _skip_array(header)
    if kind not in SCALARS:
        raise _Damaged(f"unknown type {kind}")
    return header.number(SCALARS[kind])


def _skip_array(header: _Cursor, depth: int = 1) -> int:
    kind, count = header.number("<I"), header.count(MAX_BYTES)
    if kind == STRING:
        header.skip_strings(count)
    elif kind in SCALARS:
        header.skip(count * struct.calcsize(SCALARS[kind]))
    elif kind == ARRAY and depth < MAX_DEPTH:
        header.spend(count)
        for _ in range(count):
            _skip_array(header, depth + 1)
    else:
        raise _Damaged(f"{count} values of type {kind} in an array {depth} deep")
    return count


def _tensor(header: _Cursor) -> int:
    """Weights of one tensor: name, shape, type and offset."""
    header.string()
    dimensions = header.number("<I")
    if dimensions > 8:
        raise _Damaged(f"a tensor of {dimensions} dimensions; expected at most 8")
    shape = [header.count(MAX_WEIGHTS) for _ in range(dimensions)]
    header.skip(12)
    return math.prod(shape)
