"""What can be freed: products and inputs that no run names, work of runs whose job is gone or, on a cluster, done."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf_api.store import Run, forget_run, read_runs
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.liveness import Leases, entries, folders, leases, left_to_do, read_json, written_lately
from rlhf_sdk.local.locks import is_held
from rlhf_sdk.local.state import load

GONE = ".gone-"
"""Before the name of what is being removed."""

Kind = Literal["product", "damaged", "unfinished", "input", "work"]


@dataclass(frozen=True)
class Item:
    """Something that can be freed, or is kept although it looks as if it could be."""

    path: Path
    kind: Kind
    why: str
    """Why nobody needs it, or who may."""


@dataclass(frozen=True)
class Garbage:
    """What a storage holds that may be freed."""

    free: list[Item]
    """What can be freed."""
    uncertain: list[Item]
    """Work of which this machine cannot tell that nobody goes on with it."""


def tree_size(path: Path) -> int:
    """Bytes of all files below."""
    return sum(entry.st_size for entry in entries(path) if not stat.S_ISDIR(entry.st_mode))


def forget(layout: Layout, spec: Mapping[str, Any]) -> list[str]:
    """Remove a run's work, and the products that no other run names; gives what was kept and why, a line each.

    Of the job's runs only the one with this spec is forgotten. The caller holds the run's lock.
    """
    indexes = list(read_runs(layout.storage))
    forgotten = [run for run in indexes if run.uid == layout.uid and run.spec == spec]
    products = {name for run in forgotten for name in run.products.values()}
    shared = {name for run in indexes if run not in forgotten for name in run.products.values()}
    lines = [f"kept {name}: another run uses it" for name in sorted(products & shared)]
    for name in products - shared:
        remove(layout.product(name))
    for work in layout.root.iterdir() if layout.root.is_dir() else ():
        if work.is_dir():
            shutil.rmtree(work)
    layout.state.unlink(missing_ok=True)
    for run in forgotten:
        forget_run(layout.storage, run)
    return lines


def remove(path: Path) -> None:
    """Remove a folder so that a half-removed one is never taken for whole: renamed away first."""
    gone = _renamed_away(path)
    if gone is not None:
        shutil.rmtree(gone)


def free(items: Sequence[Item]) -> None:
    """Remove them, with what is noted of them elsewhere. All are renamed away first: removing may take minutes."""
    gone = [_renamed_away(item.path) for item in items]
    for item in items:
        if item.kind == "input":
            (item.path.parent / ".records" / f"{item.path.name}.json").unlink(missing_ok=True)
        elif item.kind == "product":
            shutil.rmtree(item.path.parents[1] / "locks" / item.path.name, ignore_errors=True)
    for path in gone:
        if path is not None:
            shutil.rmtree(path)


def _renamed_away(path: Path) -> Path | None:
    if not path.exists():
        return None
    gone = path.with_name(f"{GONE}{path.name.lstrip('.')}")
    if gone.exists():
        shutil.rmtree(gone)
    return path.rename(gone)


def garbage(storage: Path, now: float, forgotten: Sequence[Run] = ()) -> Garbage:
    """Everything in the storage that can be freed now; what a process or a cluster's job may use is never among it, if
    the caller holds `gc_lock`: without, it may be what someone is just looking up.

    Args:
        storage: the storage.
        now: by the clock that dates its files.
        forgotten: runs that count as gone.

    Raises:
        ValueError: a run's index cannot be read: then nobody knows what is used.
    """
    layouts = [Layout(storage, path.name) for path in folders(storage / "work")]
    products = folders(storage / "products")
    busy = {layout.uid for layout in layouts if is_held(layout.lock)}
    # Others go on meanwhile, so in this order: a lease begins before the folder that it is for.
    runs = [run for run in read_runs(storage) if run not in forgotten]
    live = leases(storage, now)
    result = Garbage(_products(products, runs, live, busy=bool(busy)), [])
    if not busy:
        result.free.extend(_inputs(storage, runs))
    for layout in layouts:
        records = [run for run in runs if run.uid == layout.uid]
        verdict = None if layout.uid in busy else _verdict(layout, records, live, now)
        if verdict is not None:
            free, why = verdict
            (result.free if free else result.uncertain).append(Item(layout.root, "work", why))
    return result


def _products(products: Sequence[Path], runs: Sequence[Run], live: Leases, *, busy: bool) -> list[Item]:
    named = {name for run in runs for name in run.products.values()}
    items = []
    for path in products:
        making, _, _ = path.name.removeprefix(".").rpartition(".")
        if path.name in named:
            continue
        if path.name.startswith(".damaged-"):
            items.append(Item(path, "damaged", "it was damaged and rebuilt"))
        elif path.name.startswith("."):
            if not busy and making not in live.products:  # else someone may be building it
                items.append(Item(path, "unfinished", "nobody is building it"))
        elif path.name not in live.products:
            items.append(Item(path, "product", "no run names it"))
    return items


def _inputs(storage: Path, runs: Sequence[Run]) -> list[Item]:
    digests = tuple({digest for run in runs for digest in run.inputs.values()})
    inputs = [path for path in folders(storage / "inputs") if not path.name.startswith(".")]
    named = [path for path in inputs if path.name.startswith(digests)]
    used = {*named, *(storage / "inputs" / name for path in named for name in _dequantised(path))}
    return [Item(path, "input", "no run names it") for path in inputs if path not in used]


def _dequantised(path: Path) -> list[str]:
    """Folders that the trainer makes of an input's GGUF files: by the file's SHA-256, which the input's record has."""
    files = read_json(path.parent / ".records" / f"{path.name}.json").get("files")
    entries = files.values() if isinstance(files, dict) else ()
    return [f"gguf-{entry[0][:32]}" for entry in entries if _is_entry(entry)]


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and bool(entry) and isinstance(entry[0], str)


def _verdict(layout: Layout, records: Sequence[Run], live: Leases, now: float) -> tuple[bool, str] | None:
    """Whether a run's work can be freed, and why; None: its job is here."""
    if layout.uid.startswith(GONE):
        return True, "its removal was interrupted"
    state = load(layout.state)
    if state is not None and Path(state.job_file).exists():
        return None
    clustered = [run for run in records if run.job_file is None]
    if layout.uid in live.uids:
        return False, "it holds a product's lease: it may be making it now"
    for run in clustered:
        reason = left_to_do(layout.storage, run)
        if reason is not None:
            return False, reason
    if not records and _elsewhere(layout):
        return False, "no record in runs/ says what it makes: a cluster's job may not have come so far"
    if (state is None or state.phase == "Running") and written_lately(layout.root, now):
        return False, "it was written to in the last minutes"
    if state is None:
        done, nobody = "its job is done, every product in place", "it has no state: no run goes on with it"
        return True, done if clustered else nobody
    if state.phase != "Complete" and not Path(state.job_file).parent.is_dir():
        return False, f"its job file may lie on another machine: {state.job_file}"
    return True, f"its job file is gone: {state.job_file}"


def _elsewhere(layout: Layout) -> bool:
    """Whether no run of a local runner has this work: then a cluster's job has, or had."""
    return not layout.uid.startswith(GONE) and not layout.state.exists() and not layout.lock.exists()
