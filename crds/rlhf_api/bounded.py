"""Files that others wrote, read within bounds: regular files alone, of so many bytes, nested so deep.

Whoever reads a model's or data set's own files on the way to a decision reads them through here, so that a damaged or
hostile one is refused by its name and never ends the process, nor makes it wait.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

MAX_BYTES = 4 << 20
"""Of a JSON file that describes something; the largest known configurations have a tenth of it."""
MAX_DEPTH = 64
"""Nesting of lists and objects."""


MAX_LINE = 32 << 20
"""Bytes of a line; a longer one is no row of text."""
MAX_RATIO = 200
"""Bytes that a compressed one may become; rows of text become 3 to 20."""
CHUNK = 1 << 16
"""Bytes that are unpacked at once."""
FREE = 4 << 20
"""Bytes that a compressed file may become whatever its size."""


HEAD = 64
"""Bytes at a file's start that tell what it is."""
PAGE = (b"<!doctype html", b"<html")
MAGIC = (
    (b"version https://git-lfs", (), "a pointer of git LFS, not the file itself; `git lfs pull` fetches it"),
    (b"PK\3\4", (".npz", ".pt", ".bin"), "a zip archive or a spreadsheet; unpack it, or save it as CSV"),
    (b"PAR1", (".parquet",), "Parquet; call it .parquet"),
    (b"\x1f\x8b", (".gz",), "gzip; call it .gz, or unpack it"),
    (b"BZh91AY&SY", (), "bzip2; unpack it, or pack it as .gz or .zst"),
    (b"\xfd7zXZ\0", (), "xz; unpack it, or pack it as .gz or .zst"),
    (b"\x28\xb5\x2f\xfd", (".zst",), "zstd; call it .zst, or unpack it"),
)
"""First bytes, the names that go with them, and what such a file is, with what to do."""


class Unreadable(ValueError):
    """A file that cannot be read as what it should be. The message begins with its name."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file; what is no regular file (a pipe, which would wait for a writer, a device, a folder) is refused.

    Raises:
        Unreadable: it cannot be opened, or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise Unreadable(f"{path.name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise Unreadable(f"{path.name}: found {kind_of(mode)}; expected a file")
    return os.fdopen(descriptor, "rb")


def mistaken(path: Path) -> str | None:
    """What a file is that its name does not say, by its first bytes, with what to do; None: nothing speaks against it.

    Raises:
        Unreadable: as `open_regular`.
    """
    with open_regular(path) as file:
        head = file.read(HEAD)
    if head.lstrip().lower().startswith(PAGE):
        return "a web page, not the file itself; download the file"
    name = path.name.lower()
    return next((what for magic, names, what in MAGIC if head.startswith(magic) and not name.endswith(names)), None)


def exists(path: Path) -> bool:
    """Whether there is something, also of a path that no file can have: too long, or with a NUL."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def kind_of(mode: int) -> str:
    """What a mode says that is no regular file, in words."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """A whole file.

    Raises:
        Unreadable: as `open_regular`, or it has more than `most` bytes.
    """
    with open_regular(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise Unreadable(f"{path.name}: cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise Unreadable(f"{path.name}: has more than {most} bytes; expected at most so many")
    return content


def gunzip(path: Path) -> BinaryIO:
    """A gzip file's content, within `unpacked`'s bounds.

    Raises:
        Unreadable: as `open_regular`; while it is read: as `unpacked`.
    """
    packed = open_regular(path)
    return unpacked(cast(BinaryIO, gzip.GzipFile(fileobj=packed, mode="rb")), packed, path.name)


def unpacked(stream: BinaryIO, packed: BinaryIO, name: str) -> BinaryIO:
    """What `stream` unpacks of `packed`, as long as it is no more than MAX_RATIO times what was read of it.

    Raises:
        Unreadable: while it is read: it becomes more.
    """
    return io.BufferedReader(_Unpacked(stream, packed, name), CHUNK)


class _Unpacked(io.RawIOBase):
    """Counts what comes out beside what went in."""

    def __init__(self, stream: BinaryIO, packed: BinaryIO, name: str) -> None:
        self._stream, self._packed, self._name = stream, packed, name
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(min(len(buffer), CHUNK))
        self._count += len(content)
        if self._count > FREE + MAX_RATIO * self._packed.tell():
            raise Unreadable(f"{self._name}: unpacks to more than {MAX_RATIO} times its size; expected rows of text")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        self._packed.close()
        super().close()


def lines(stream: BinaryIO, name: str, most: int = MAX_LINE) -> Iterator[bytes]:
    """Lines with their ends.

    Raises:
        Unreadable: one has more than `most` bytes.
    """
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) > most:
            raise Unreadable(f"{name}:{number}: a line of more than {most} bytes; expected a row of text")
        yield line


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file. NaN and Infinity are read, as Python's own writer and model configurations have them.

    Raises:
        Unreadable: as `read_bytes`, or it is no JSON object, or nested deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(read_bytes(path, most))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written anywhere
    except RecursionError as error:
        raise Unreadable(f"{path.name}: nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        what = mistaken(path)
        raise Unreadable(f"{path.name}: {f'found {what}' if what else f'is no JSON ({error})'}") from error
    if not isinstance(value, dict):
        raise Unreadable(f"{path.name}: found {type(value).__name__}; expected a JSON object")
    if is_deeper(value, MAX_DEPTH):
        raise Unreadable(f"{path.name}: nested more than {MAX_DEPTH} deep")
    return value


def is_deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested more than `most` deep."""
    level = [value]
    for _ in range(most):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
