"""Files that others wrote, read within bounds: regular files alone, of so many bytes, nested so deep.

Whoever reads a model's or data set's own files on the way to a decision reads them through here, so that a damaged or
hostile one is refused by its name and never ends the process, nor makes it wait.
"""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_BYTES = 4 << 20
"""Of a JSON file that describes something; the largest known configurations have a tenth of it."""
MAX_DEPTH = 64
"""Nesting of lists and objects."""


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


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file. NaN and Infinity are read, as Python's own writer and model configurations have them.

    Raises:
        Unreadable: as `read_bytes`, or it is no JSON object, or nested deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(read_bytes(path, most))
    except RecursionError as error:
        raise Unreadable(f"{path.name}: nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"{path.name}: is no JSON ({error})") from error
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
