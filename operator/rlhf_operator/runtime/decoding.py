"""JSON of the API server, however deep: what nests deeper than any object that is used is emptied.

An API server stores objects of 10,000 levels where a schema lets it; orjson reads 1,024 and writes 254. One such object
must not hide the list that it stands in.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

DEEPEST = 100
"""Levels that stay; a job has about twenty."""
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)


def decode(content: bytes) -> Any:
    """What JSON says; of text that is too deep to be read, its upper levels.

    Raises:
        orjson.JSONDecodeError: it is no JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return orjson.loads(_emptied(content))


def encode(value: Any) -> bytes:
    """The inverse; of a value that is too deep to be written, its upper levels."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return orjson.dumps(_shallow(value, DEEPEST))


def _emptied(content: bytes) -> bytes:
    """The text without what stands inside the objects and lists of the last level that stays."""
    parts: list[bytes] = []
    depth = start = 0
    for match in _TOKEN.finditer(content):
        token = match.group()
        if token in (b"{", b"["):
            depth += 1
            if depth == DEEPEST:
                parts.append(content[start : match.end()])
        elif token in (b"}", b"]"):
            if depth == DEEPEST:
                start = match.start()
            depth -= 1
    return b"".join([*parts, content[start:]])


def _shallow(value: Any, levels: int) -> Any:
    if isinstance(value, dict):
        return {key: _shallow(inner, levels - 1) for key, inner in value.items()} if levels else {}
    if isinstance(value, list):
        return [_shallow(inner, levels - 1) for inner in value] if levels else []
    return value
