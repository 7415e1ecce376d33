"""Checkpoints: saved beside, verified, then swapped in; loaded only if every byte is what was saved.

    checkpoints/step-00000010/manifest.json     stage digest, world size, SHA-256 of every file
    checkpoints/step-00000010/rank-00000/...    what each rank keeps for itself
    checkpoints/step-00000010/...               what the engines write

`.tmp` is being written, `.old` was replaced by one of the same step, `.gone` is being removed: each is finished or
undone by the next attempt, so that a kill at any instruction leaves a checkpoint that loads.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import BaseModel, ValidationError

from rlhf_api.contract import WORLD_SIZE_CHANGED
from rlhf_api.digest import digest_tree
from rlhf_api.job import Execution
from rlhf_trainer import distributed
from rlhf_trainer.exits import InputError, explain_full_disk
from rlhf_trainer.storage.fsync import sync_folder, sync_tree, write_synced

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class CheckpointManifest(BaseModel):
    """What a checkpoint says of itself; written last."""

    version: str = "1"
    digest: str
    """Digest of the stage's product to be: another spec, seed or input is another digest."""
    step: int
    """Steps done."""
    world: int
    """Ranks that wrote it."""
    sharding: str | None = None
    """How the engines' state lies in it (`sharding_of`); None: an earlier version wrote it."""
    made_with: dict[str, str] = {}
    """Versions, threads and CPU: with others, a resumed run is right but not the same to the last bit."""
    files: dict[str, str]
    """SHA-256 of every other file, by relative path."""


def sharding_of(execution: Execution) -> str:
    """How DeepSpeed lays out an engine's state: it can be loaded in no other way."""
    return f"zero {execution.zero}, offloadOptimizer {str(execution.offload_optimizer).lower()}"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    path: Path


class Checkpoints:
    """A stage's checkpoints.

    Args:
        folder: `work/<uid>/<stage>/checkpoints`.
        digest: the stage's digest.
        rank, world: of this process.
        keep: how many stay.
        sharding: how the engines' state is laid out; None: it does not matter.
        made_with: what bit-exact resume depends on beside the digest; a difference is said.
    """

    def __init__(
        self,
        folder: Path,
        *,
        digest: str,
        rank: int = 0,
        world: int = 1,
        keep: int = 2,
        sharding: str | None = None,
        made_with: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._digest = digest
        self._rank = rank
        self._world = world
        self._keep = keep
        self._sharding = sharding
        self._made_with = dict(made_with or {})

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Make the checkpoint of `step` done steps; every rank calls it and returns once it is in place.

        Args:
            write: called on every rank with the folder to write into, which all ranks share.

        Raises:
            StorageFull: no space; the checkpoints that were there stay.
        """
        final = self._folder / f"step-{step:08d}"
        beside = final.with_suffix(".tmp")
        with explain_full_disk(self._folder, f"saving the checkpoint of step {step}"):
            if self._rank == 0:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
            distributed.barrier()
            try:
                write(beside)
                distributed.barrier()
                sync_tree(beside)  # on every node: each holds what its own ranks wrote
                distributed.barrier()
                if self._rank == 0:
                    self._finish(step, beside, final)
            except BaseException:
                if self._rank == 0:
                    shutil.rmtree(beside, ignore_errors=True)
                raise
        distributed.barrier()
        return final

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be used, the same on every rank; None: start from the beginning.

        Raises:
            InputError: the newest one was written by another number of ranks, or with another ZeRO stage.
        """
        if self._rank == 0:
            self._recover()
            newest: Checkpoint | Exception | None
            try:
                newest = self._newest()
            except InputError as error:
                newest = error
        else:
            newest = None
        newest = distributed.broadcast(newest)
        if isinstance(newest, Exception):
            raise newest
        return newest

    def _finish(self, step: int, beside: Path, final: Path) -> None:
        manifest = CheckpointManifest(
            digest=self._digest,
            step=step,
            world=self._world,
            sharding=self._sharding,
            made_with=self._made_with,
            files=digest_tree(beside),
        )
        write_synced(beside / MANIFEST, orjson.dumps(manifest.model_dump(), option=orjson.OPT_SORT_KEYS))
        sync_folder(beside)
        old = final.with_suffix(".old")
        if final.exists():
            final.rename(old)
        beside.rename(final)
        sync_folder(self._folder)
        shutil.rmtree(old, ignore_errors=True)
        for path in self._all()[self._keep :]:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        gone = path.with_suffix(".gone")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _recover(self) -> None:
        """Finish or undo what a kill interrupted."""
        for old in self._folder.glob("step-*.old"):
            final = old.with_suffix("")
            if not final.exists():
                old.rename(final)
        for pattern in ("step-*.tmp", "step-*.old", "step-*.gone"):
            for path in self._folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted((path for path in self._folder.glob("step-*") if not path.suffix), reverse=True)

    def _newest(self) -> Checkpoint | None:
        for path in self._all():
            try:
                manifest = verify(path)
            except Damaged as damage:
                log.warning("checkpoint %s is not used: %s", path.name, damage)
                self._remove(path)
                continue
            if manifest.digest != self._digest:
                log.warning(
                    "checkpoint %s is not used: it was made for digest %s, this stage has %s (its spec, seed or inputs "
                    "changed)",
                    path.name,
                    manifest.digest[:12],
                    self._digest[:12],
                )
                self._remove(path)
                continue
            if manifest.world != self._world:
                raise InputError(
                    f"checkpoint {path} was written by {manifest.world} ranks, this stage runs {self._world}: resuming "
                    f"is exact for equal ranks only. Run {manifest.world} ranks (nodes x ranksPerNode) again, or remove "
                    "the folder to start from the beginning.",
                    reason=WORLD_SIZE_CHANGED,
                )
            if None not in (manifest.sharding, self._sharding) and manifest.sharding != self._sharding:
                raise InputError(
                    f"execution: checkpoint {path} was written with {manifest.sharding}; found {self._sharding}. Set them "
                    "back, or remove the folder to start from the beginning.",
                    reason="ShardingChanged",
                )
            self._compare(path, manifest)
            return Checkpoint(manifest.step, path)
        return None

    def _compare(self, path: Path, manifest: CheckpointManifest) -> None:
        differences = [
            f"{name} {manifest.made_with.get(name, 'unknown')} then, {now} now"
            for name, now in self._made_with.items()
            if manifest.made_with.get(name) != now
        ]
        if differences:
            log.warning("checkpoint %s: resuming is not exact to the last bit: %s", path.name, "; ".join(differences))


class Damaged(Exception):
    """A checkpoint whose files are not what its manifest says."""


def verify(path: Path) -> CheckpointManifest:
    """Check every file of a checkpoint against its manifest.

    Raises:
        Damaged: the manifest cannot be read, or a file is missing, changed or unknown.
    """
    try:
        manifest = CheckpointManifest.model_validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise Damaged(f"its {MANIFEST} cannot be read ({str(error).splitlines()[0]})") from error
    digests = digest_tree(path)
    digests.pop(MANIFEST, None)
    for name in sorted(manifest.files.keys() | digests.keys()):
        expected, actual = manifest.files.get(name), digests.get(name)
        if expected != actual:
            what = "missing" if actual is None else "not in its manifest" if expected is None else "changed"
            raise Damaged(f"{name} is {what} (SHA-256 found {str(actual)[:12]}, expected {str(expected)[:12]})")
    return manifest
