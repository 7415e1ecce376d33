"""Signs of life on a storage. A cluster's operator is elsewhere: only what a job has left here tells whether it is done.

runs/<namespace>/<job>/<uid>.json        the products it is to make; no `jobFile` where a cluster runs it
products/<type>-<digest>/manifest.json   one that is made
work/<uid>/<stage>/fence.json            the stage's attempt that began last
work/<uid>/<stage>/termination.json      the attempt that ended last, and how
locks/<type>-<digest>/<n>.json           who makes a product, beating while at it
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.stages import REPORT
from rlhf_api.store import DamagedProduct, Run, read_product

SILENT_SECONDS = 600
"""A writer that has written within this time may be at work; ten times what takes a lease away."""


@dataclass(frozen=True)
class Leases:
    """What may be in the making now."""

    products: frozenset[str]
    """`<type>-<digest>`."""
    uids: frozenset[str]
    """Of the jobs that make them."""


def leases(storage: Path, now: float) -> Leases:
    """Leases that are neither released nor long silent; of a product's the newest counts."""
    products: set[str] = set()
    uids: set[str] = set()
    for folder in folders(storage / "locks"):
        newest = max(folder.glob("[0-9]*.json"), default=None)
        beat = None if newest is None else _modified(newest)
        if newest is None or (beat is not None and now - beat >= SILENT_SECONDS):
            continue
        holder = read_json(newest)
        if not holder.get("released"):
            products.add(folder.name)
            uids.add(str(holder.get("uid")))
    return Leases(frozenset(products), frozenset(uids))


def clock(storage: Path) -> float:
    """Now, by the clock that dates the storage's files: a claim may be another machine's. By ours if it is read-only."""
    with suppress(OSError), tempfile.TemporaryFile(dir=storage) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def written_lately(root: Path, now: float) -> bool:
    """Whether anything below was written within `SILENT_SECONDS`: a checkpoint, a log's line, a fence."""
    return any(now - entry.st_mtime < SILENT_SECONDS for entry in entries(root))


def left_to_do(storage: Path, run: Run) -> str | None:
    """Why a cluster's job may go on, in words; None: it is done, every product in place and its report the last of all.

    A failed job may be tried again (`rlhf.dev/retry`), for as long as it is there: that, only its cluster knows.
    """
    work = storage / "work" / run.uid
    for stage, name in run.products.items():
        try:
            product = read_product(storage, name)
        except DamagedProduct:
            product = None
        if product is None:
            last = read_json(work / stage / "termination.json").get("reason")
            last = f" (last: {last})" if last and _ended(work / stage) else ""
            return f"{stage} is not made{last}: its job may run, be suspended or be tried again"
        if product.manifest.failure is not None:
            return f"{stage} failed a gate: its job may be tried again"
    if not any(_reported_last(work, stage) for stage, name in run.products.items() if name.startswith(f"{REPORT}-")):
        return "its report has not ended well, after all else: its job may run, be suspended or be tried again"
    if (run.spec.get("runPolicy") or {}).get("keep") == "everything":
        return "its job is done and says runPolicy.keep: everything"
    return None


def entries(root: Path) -> Iterator[os.stat_result]:
    """Of `root` and all below; what goes meanwhile is left out."""
    with suppress(FileNotFoundError):
        yield root.lstat()
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            with suppress(FileNotFoundError):
                yield Path(folder, name).lstat()


def folders(path: Path) -> list[Path]:
    """Folders in a folder."""
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file; empty: it is not there, or not that."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _reported_last(work: Path, stage: str) -> bool:
    """Whether the report was made, and after all else: one that was made of a failed job is made again when that goes on."""
    summary = read_json(work / stage / "termination.json")
    ends = {path.parent.name: _modified(path) or 0.0 for path in work.glob("*/termination.json")}
    return summary.get("code") == 0 and _ended(work / stage) and ends.get(stage) == max(ends.values(), default=None)


def _ended(work: Path) -> bool:
    """Whether the stage's last attempt has ended and said how."""
    ended, began = (read_json(work / name).get("attempt") for name in ("termination.json", "fence.json"))
    return isinstance(ended, int) and (not isinstance(began, int) or ended >= began)


def _modified(path: Path) -> float | None:
    """When it was written; None: it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
