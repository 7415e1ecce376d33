"""Files of a product or of a stage's work: what is damaged or was changed is named as a problem and left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from rlhf_api.bounded import Unreadable, read_object
from rlhf_api.digest import digest_file

Json = dict[str, Any]
MAX_BYTES = 256 << 20
"""Of a JSON file."""


@dataclass(frozen=True)
class Folder:
    """A product's side files, or a stage's work: what is damaged is named in `problems` and left out."""

    path: Path
    problems: list[str]
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of files, where a manifest says it: whatever was changed in one of them, nothing of it is shown."""

    def json(self, name: str) -> Json | None:
        """An object; None where it is missing or damaged."""
        return read_json(self.path / name, self.problems) if self._is_whole(name) else None

    def lines(self, name: str) -> list[Json]:
        """Lines of a JSONL file; none where it is missing or changed."""
        return read_lines(self.path / name, self.problems) if self._is_whole(name) else []

    def _is_whole(self, name: str) -> bool:
        path = self.path / name
        if not path.is_file():
            return False
        if name in self.digests and digest_file(path) != self.digests[name]:
            self.problems.append(f"{short_name(path)} was changed after it was made: left out")
            return False
        return True


def read_json(path: Path, problems: list[str]) -> Json | None:
    """An object; None where the file is missing, or damaged, which `problems` then says."""
    if not path.is_file():
        return None
    try:
        return read_object(path, MAX_BYTES)
    except Unreadable as error:
        problems.append(f"{path.parent.name}/{error}: left out")
        return None


def read_lines(path: Path, problems: list[str]) -> list[Json]:
    """Lines of a JSONL file; a torn last line (a kill while writing) is left out, a broken one named."""
    if not path.is_file():
        return []
    rows, damaged = [], []
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            row = orjson.loads(raw)
        except orjson.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif raw.endswith(b"\n"):
            damaged.append(number)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        problems.append(f"{short_name(path)}:{damaged[0]}{more} is not JSON: left out")
    return rows


def short_name(path: Path) -> str:
    """A file as problems name it: with its folder alone."""
    return f"{path.parent.name}/{path.name}"
