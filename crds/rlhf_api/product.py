"""Inside a product: `manifest.json`, which says what it is, and the folders of an ensemble's members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_api.base import ApiModel
from rlhf_api.bounded import exists

MEMBERS = "members"
"""Folder of a scorer whose members are models of their own: `members/<i>/`."""


class Manifest(ApiModel):
    """Inside every product; written last, before the folder is renamed into place."""

    version: str = "1"
    """Of this format."""
    type: str
    """Stage type that made it."""
    digest: str
    """Digest that names its folder."""
    recipe: int
    """Recipe version of the type."""
    job: str
    """Job whose stage made it first."""
    stage: str
    """That stage."""
    spec: dict[str, Any]
    """Effective spec."""
    seed: int
    """Effective seed."""
    inputs: dict[str, str]
    """Digests of all it took, by `Reference.key`."""
    files: dict[str, str]
    """SHA-256 of every other file, by relative path."""
    versions: dict[str, str]
    """Versions of Python and of the libraries that computed it."""
    image: str | None = None
    """Image by digest, where there is one."""
    world: int = 1
    """Ranks."""
    counts: dict[str, int] = {}
    """Rows, tokens, what was cut, rejected or dropped."""
    metrics: dict[str, Any] = {}
    """Final metrics: numbers, or an estimate {value, low, high, n}."""
    failure: str | None = None
    """Why its stage failed although the product is whole: a gate that was not kept. Never a hit; a stage that finds such
    a product fails again with this message (exit code 3, reason GateFailed), at no cost."""
    notes: list[str] = []
    """What a reader must know, in sentences."""


def first_model(path: Path) -> Path:
    """The folder of a model, of an ensemble its first member's; the path itself where it is another thing."""
    member = path / MEMBERS / "0"
    return member if exists(member) else path
