"""Content digests: canonical JSON, SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson


def digest_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


SHORT_DIGEST = 40
"""Hex digits of a short digest."""


def short_digest(value: Any) -> str:
    """The first 160 bits of `digest_of`: of inputs and functions, so that 32 of each fit a termination message."""
    return digest_of(value)[:SHORT_DIGEST]


def digest_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path relative to the folder, sorted."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): digest_file(path) for path in files}
