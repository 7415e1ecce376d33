"""A product as a plain folder: what other programs read, and nothing that only rlhf-operator reads."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rlhf_api.stages import STAGE_TYPES
from rlhf_api.store import MANIFEST
from rlhf_sdk.exits import CommandError, Exit

OWN = (MANIFEST, "metrics.jsonl", "timings.json", "critics")
"""What of a product only rlhf-operator reads."""


def is_model(product: str) -> bool:
    """Whether a product `<type>-<digest>` is a model."""
    kind = STAGE_TYPES.get(product.partition("-")[0])
    return kind is not None and kind.product in ("policy", "reward", "cost", "moderation")


def check_target(target: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        CommandError: it is a file, or a folder that is not empty.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise CommandError(f"{target}: found something there; expected no folder, or an empty one", Exit.INVALID)


def export(product: Path, target: Path) -> None:
    """Copy a product's files into a folder: whole, or not at all.

    Raises:
        CommandError: something is in the folder already.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as temporary:
        copy = Path(temporary) / "copy"
        shutil.copytree(product, copy, ignore=lambda folder, _: OWN if Path(folder) == product else ())
        if target.exists():
            target.rmdir()
        copy.rename(target)
