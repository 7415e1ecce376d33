"""Checkpoints of another run of the same stage: a job that was deleted and made again goes on where the first one was.

The digest says that both compute the same. Files are linked or copied, never taken: the other run may be suspended, may
have lost the product's lock while it still writes, and its report tells of them.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from rlhf_api.bounded import read_bytes
from rlhf_api.stage_file import StageFile
from rlhf_trainer.durable import sync_folder, sync_tree

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
COPIED = ("metrics.jsonl", "timings.jsonl", "events")
"""What is copied before the checkpoint is put in place: a kill between them begins again."""
MOST_BYTES = 64 << 20
"""Of a checkpoint's manifest."""


@dataclass(frozen=True)
class Candidate:
    """A run of the stage that left checkpoints."""

    work: Path
    step: int
    world: int


def adopt(file: StageFile) -> Path | None:
    """Take over the furthest checkpoint that another run of the same stage left; gives its work folder.

    Nothing is taken where this run has checkpoints of its own, or all others are of another number of ranks.
    """
    work = Path(file.directories.work)
    if any(step.digest == file.digest for step in _manifests(work)):
        return None
    world = file.nodes * file.ranks_per_node
    candidates = sorted(_candidates(file, work), key=lambda candidate: (-candidate.step, str(candidate.work)))
    fitting = [candidate for candidate in candidates if candidate.world == world]
    if not fitting:
        for candidate in candidates[:1]:
            log.warning(
                "%s has a checkpoint of step %d of %d ranks; this run has %d: it begins from the start",
                *(candidate.work, candidate.step, candidate.world, world),
            )
        return None
    source, name = fitting[0].work, f"step-{fitting[0].step:08d}"
    for entry in COPIED:
        if (source / entry).exists():
            _remove(work / entry)
            _copy(source / entry, work / entry, shutil.copy2)
    beside = work / CHECKPOINTS / f"{name}.tmp"
    _remove(beside)
    _copy(source / CHECKPOINTS / name, beside, _link)
    sync_tree(beside)
    beside.rename(work / CHECKPOINTS / name)
    sync_folder(work / CHECKPOINTS)
    log.info("goes on from step %d of %s, which computed the same", fitting[0].step, source)
    return source


def _copy(source: Path, target: Path, function: Callable[[str, str], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=function)
    else:
        function(str(source), str(target))


def _link(source: str, target: str) -> None:
    """The file under a second name: a checkpoint's files never change. Copied where the storage has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@dataclass(frozen=True)
class _Step:
    digest: str
    step: int
    world: int


def _candidates(file: StageFile, work: Path) -> Iterator[Candidate]:
    for other in sorted((Path(file.directories.storage) / "work").glob("*/*")):
        if other.is_symlink() or other.parent.is_symlink() or other == work:
            continue
        steps = [step for step in _manifests(other) if step.digest == file.digest]
        if steps:
            newest = max(steps, key=lambda step: step.step)
            yield Candidate(other, newest.step, newest.world)


def _manifests(work: Path) -> Iterator[_Step]:
    """Checkpoints of a work folder whose manifest can be read; the rank that loads one verifies the rest."""
    for path in sorted((work / CHECKPOINTS).glob("step-????????/manifest.json")):
        try:
            manifest = orjson.loads(read_bytes(path, MOST_BYTES))
            yield _Step(str(manifest["digest"]), int(manifest["step"]), int(manifest["world"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is not looked at: its manifest cannot be read (%s)", path.parent, error)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
