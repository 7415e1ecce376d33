"""Checkpoints of another run of the same stage: a job that was deleted and made again goes on where the first one was.

The digest says that both compute the same. Files are linked or copied, never taken: the other run may be suspended, may
have lost the product's lock while it still writes, and its report tells of them. What cannot be read or copied ends no stage:
it begins from the start.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rlhf_api.bounded import read_bytes
from rlhf_api.stage_file import StageFile
from rlhf_trainer.storage.checkpoints import MANIFEST, CheckpointManifest, sharding_of
from rlhf_trainer.storage.fsync import sync_folder, sync_tree

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
COPIED = ("metrics.jsonl", "timings.jsonl", "events")
"""What is copied before a checkpoint is put in place: a kill between them begins again."""
MOST_BYTES = 64 << 20
"""Of a checkpoint's manifest."""

Manifests = dict[Path, CheckpointManifest]
"""By the checkpoint's folder."""


def adopt(file: StageFile) -> Path | None:
    """Take over the checkpoints of the run of the same stage that came furthest; gives its work folder.

    Nothing is taken where this run has checkpoints of its own, or where no other's can be loaded: they are of another
    number of ranks or another ZeRO stage, or cannot be read.
    """
    work = Path(file.directories.work)
    if _manifests(work, file.digest):
        return None
    world, sharding = file.nodes * file.ranks_per_node, sharding_of(file.execution)
    runs = sorted(_other_runs(file, work), key=lambda run: (-_step(run[1]), str(run[0])))
    for source, manifests in runs:
        newest = max(manifests.values(), key=lambda manifest: manifest.step)
        if (newest.world, newest.sharding) != (world, sharding):
            log.warning(
                "%s has a checkpoint of step %d, of %d ranks with %s; not used: this run has %d ranks with %s",
                *(source, newest.step, newest.world, newest.sharding or "a ZeRO stage that it does not tell"),
                *(world, sharding),
            )
            continue
        try:
            _take_over(source, manifests, work)
        except OSError as error:  # no room, no permission, or the other run removes them meanwhile
            log.warning("%s: its checkpoints are not used: they cannot be copied (%s)", source, error)
            for entry in (*COPIED, CHECKPOINTS):
                _remove(work / entry)
            continue
        log.info("goes on from step %d of %s, which computed the same", newest.step, source)
        return source
    return None


def _step(manifests: Manifests) -> int:
    return max(manifest.step for manifest in manifests.values())


def _other_runs(file: StageFile, work: Path) -> Iterator[tuple[Path, Manifests]]:
    for run in (Path(file.directories.storage) / "work").glob("*/*"):
        if run.is_symlink() or run.parent.is_symlink() or run == work:
            continue
        manifests = _manifests(run, file.digest)
        if manifests:
            yield run, manifests


def _manifests(work: Path, digest: str) -> Manifests:
    """Checkpoints of a digest in a work folder; the rank that loads one verifies its other files."""
    manifests: Manifests = {}
    for path in sorted((work / CHECKPOINTS).glob(f"step-????????/{MANIFEST}")):
        try:
            manifest = CheckpointManifest.model_validate_json(read_bytes(path, MOST_BYTES))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            log.warning("checkpoint %s is not looked at: its manifest cannot be read (%s)", path.parent, reason)
            continue
        if manifest.digest == digest:
            manifests[path.parent] = manifest
    return manifests


def _take_over(source: Path, manifests: Manifests, work: Path) -> None:
    """Copy rows, then put all checkpoints in place, the oldest first: should the newest be damaged, the next is used."""
    for entry in COPIED:
        if (source / entry).exists() and not (source / entry).is_symlink():
            _remove(work / entry)
            _copy(source / entry, work / entry, shutil.copy2)
    for folder in sorted(manifests, key=lambda folder: manifests[folder].step):
        beside = work / CHECKPOINTS / f"{folder.name}.tmp"
        _remove(beside)
        _copy(folder, beside, _link)
        sync_tree(beside)
        beside.rename(work / CHECKPOINTS / folder.name)
    sync_folder(work / CHECKPOINTS)


def _copy(source: Path, target: Path, function: Callable[[str, str], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, copy_function=function)
    else:
        function(str(source), str(target))


def _link(source: str, target: str) -> None:
    """The file under a second name: a checkpoint's files never change. Copied where the storage has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
