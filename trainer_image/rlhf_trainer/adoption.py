"""Checkpoints of another run of the same stage: a job that was deleted and made again goes on where the first one was.

The digest says that both compute the same. Only who holds the product's lock may call this: nobody else computes it then.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from rlhf_api.bounded import read_bytes
from rlhf_api.stage_file import StageFile

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
TAKEN = ("metrics.jsonl", "timings.jsonl", "events", CHECKPOINTS)
"""What is taken over, the checkpoints last: a kill before them leaves them where they are found again."""
MOST_BYTES = 64 << 20
"""Of a checkpoint's manifest."""


@dataclass(frozen=True)
class Candidate:
    """A run of the stage that left checkpoints."""

    work: Path
    step: int
    world: int


def adopt(file: StageFile) -> Path | None:
    """Take over the furthest checkpoints that another run of the same stage left; gives its work folder.

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
    source = fitting[0].work
    for name in TAKEN:
        if (source / name).exists():
            _remove(work / name)
            (source / name).rename(work / name)
    log.info("goes on from step %d of %s, which computed the same", fitting[0].step, source)
    return source


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
