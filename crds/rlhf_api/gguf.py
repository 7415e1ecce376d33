"""The header of a GGUF file: its metadata and tensor shapes, in milliseconds (gguf.GGUFReader takes seconds).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    fields: dict[str, Any]
    """Scalars and strings by key; of an array its length."""
    parameters: int
    """Weights of all tensors."""


def read_header(path: Path) -> Header:
    """Read the header alone.

    Raises:
        ValueError: it is no GGUF file of version 2 or 3, or cut off in its header.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise ValueError(f"{path.name}: is no GGUF file (it does not start with {MAGIC.decode()})")
            version, tensors, pairs = struct.unpack("<IQQ", _exactly(file, 20))
            if version not in (2, 3):
                raise ValueError(f"{path.name}: GGUF version {version}; expected 2 or 3")
            fields = {}
            for _ in range(pairs):
                key = _string(file, size)
                fields[key] = _value(file, _number(file, "<I"), size)
            parameters = sum(_tensor(file, size) for _ in range(tensors))
    except (EOFError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: the GGUF header is damaged or cut off ({error})") from error
    return Header(fields, parameters)


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise EOFError(f"{count} bytes expected at {file.tell() - len(content)}")
    return content


def _number(file: BinaryIO, code: str) -> Any:
    return struct.unpack(code, _exactly(file, struct.calcsize(code)))[0]


def _string(file: BinaryIO, size: int) -> str:
    return _exactly(file, _length(file, size)).decode()


def _length(file: BinaryIO, size: int) -> int:
    count: int = _number(file, "<Q")
    if count > size:
        raise EOFError(f"a length of {count} in a file of {size} bytes")
    return count


def _value(file: BinaryIO, kind: int, size: int) -> Any:
    if kind == STRING:
        return _string(file, size)
    if kind == ARRAY:
        return _skip_array(file, size)
    if kind not in SCALARS:
        raise EOFError(f"unknown type {kind}")
    return _number(file, SCALARS[kind])


def _skip_array(file: BinaryIO, size: int) -> int:
    kind, count = _number(file, "<I"), _length(file, size)
    if kind in SCALARS:
        _exactly(file, count * struct.calcsize(SCALARS[kind]))
    else:
        for _ in range(count):
            if kind == STRING:
                _exactly(file, _length(file, size))
            else:
                _value(file, kind, size)
    return count


def _tensor(file: BinaryIO, size: int) -> int:
    """Weights of one tensor: name, shape, type and offset."""
    _string(file, size)
    shape = [_length(file, 2**62) for _ in range(_number(file, "<I"))]
    _exactly(file, 12)
    return math.prod(shape)
