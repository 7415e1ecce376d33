"""What can be freed: products and inputs that no run names, work of runs whose job is gone."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf_api.store import read_runs, run_path
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.locks import held
from rlhf_sdk.local.state import load

SILENT_SECONDS = 600
"""A writer that has renewed its lease within this time may be at work; ten times what takes a lease away."""

Kind = Literal["product", "damaged", "unfinished", "input", "work"]


@dataclass(frozen=True)
class Item:
    """Something that can be freed."""

    path: Path
    kind: Kind
    bytes: int
    why: str
    """Why nobody needs it."""


def tree_size(path: Path) -> int:
    """Bytes of all files below."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def forget(layout: Layout) -> list[str]:
    """Remove a run's work and the products that only it names; gives what was kept and why, a line each.

    The caller holds the run's lock.
    """
    state = load(layout.state)
    runs = list(read_runs(layout.storage))
    own = {name for run in runs if run.uid == layout.uid for name in run.products.values()}
    shared = {name for run in runs if run.uid != layout.uid for name in run.products.values()}
    lines = [f"kept {name}: another run uses it" for name in sorted(own & shared)]
    for name in own - shared:
        remove(layout.product(name))
    for work in layout.root.iterdir() if layout.root.is_dir() else ():
        if work.is_dir():
            shutil.rmtree(work)
    layout.state.unlink(missing_ok=True)
    if state is not None:
        run_path(layout.storage, state.namespace, state.job, state.uid).unlink(missing_ok=True)
    return lines


def remove(path: Path) -> None:
    """Remove a folder so that a half-removed one is never taken for whole: renamed away first."""
    if not path.exists():
        return
    gone = path.with_name(f".gone-{path.name.lstrip('.')}")
    if gone.exists():
        shutil.rmtree(gone)
    path.rename(gone)
    shutil.rmtree(gone)


def free(item: Item) -> None:
    """Remove it, with what is noted of it elsewhere."""
    remove(item.path)
    if item.kind == "input":
        (item.path.parent / ".records" / f"{item.path.name}.json").unlink(missing_ok=True)
    elif item.kind == "product":
        shutil.rmtree(item.path.parents[1] / "locks" / item.path.name, ignore_errors=True)


def garbage(storage: Path) -> list[Item]:
    """Everything in the storage that can be freed now; what a running process may use is never among it.

    Raises:
        ValueError: a run's index cannot be read: then nobody knows what is used.
    """
    runs = list(read_runs(storage))
    named = {name for run in runs for name in run.products.values()}
    inputs = {digest for run in runs for digest in run.inputs.values()}
    busy = {layout.uid for layout in _runs(storage) if held(layout.lock)}
    found = _products(storage, named, working=bool(busy))
    for path in _folders(storage / "inputs"):
        if not busy and not path.name.startswith(".") and not any(path.name.startswith(digest) for digest in inputs):
            found.append(Item(path, "input", tree_size(path), "no run names it"))
    for layout in _runs(storage):
        why = _gone(layout)
        if layout.uid not in busy and why is not None:
            found.append(Item(layout.root, "work", tree_size(layout.root), why))
    return found


def _products(storage: Path, named: set[str], *, working: bool) -> list[Item]:
    found = []
    for path in _folders(storage / "products"):
        if path.name in named:
            continue
        if path.name.startswith(".damaged-"):
            found.append(Item(path, "damaged", tree_size(path), "it was found damaged and made anew"))
        elif path.name.startswith("."):
            if not working:  # else someone may be building it
                found.append(Item(path, "unfinished", tree_size(path), "nobody is building it"))
        elif not _leased(storage, path.name):
            found.append(Item(path, "product", tree_size(path), "no run names it"))
    return found


def _leased(storage: Path, name: str) -> bool:
    """Whether a writer of this product may still be at work: its newest lease is neither released nor long silent."""
    newest = max((storage / "locks" / name).glob("*.json"), default=None)
    if newest is None:
        return False
    silent = time.time() - newest.stat().st_mtime
    try:
        return silent < SILENT_SECONDS and not json.loads(newest.read_bytes())["released"]
    except (ValueError, KeyError, TypeError):
        return silent < SILENT_SECONDS


def _runs(storage: Path) -> list[Layout]:
    return [Layout(storage, path.name) for path in _folders(storage / "work")]


def _gone(layout: Layout) -> str | None:
    """Why nobody will go on with this run; None: someone may."""
    state = load(layout.state)
    if state is None:
        return "it has no state: no run goes on with it"
    return None if Path(state.job_file).exists() else f"its job file is gone: {state.job_file}"


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
