"""Products, logs and metrics from a job's storage to a folder here: whole, verified, or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from rlhf_api.contract import COMPLETE, GATE_FAILED
from rlhf_api.digest import digest_tree
from rlhf_api.product import Manifest
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import MANIFEST, MAX_MANIFEST, DamagedProduct, find_verified
from rlhf_sdk.cluster.jobs import ClusterJob
from rlhf_sdk.cluster.reader import Reader
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.text import size

NAME = re.compile(r"[a-z0-9A-Z][a-z0-9A-Z-]{0,127}")
LOGS = "_logs"
"""Beside the stages' folders: what they logged and measured; no stage can have this name."""
KEPT = ("logs", "metrics.jsonl", "timings.jsonl", "termination.json")
"""Of a stage's work folder."""


def report_of(job: ClusterJob) -> str:
    """The stage that makes the report.

    Raises:
        CommandError: the operator has not begun the job.
    """
    report = next((stage.name for stage in reversed(job.status.stages) if stage.type == REPORT), None)
    if report is None:
        raise CommandError(
            f"{job.name}: the operator has not begun it ({job.phase}); there is nothing yet", Exit.FAILED
        )
    return report


def products(job: ClusterJob, stages: list[str], *, everything: bool) -> dict[str, str]:
    """Products that are asked for, by stage.

    Raises:
        CommandError: a stage that was named has none; says why.
    """
    if everything:
        return _plain(
            {stage.name: stage.product for stage in job.status.stages if stage.product and _made(job, stage.name)}
        )
    by_stage = {}
    for name in stages or [report_of(job)]:
        stage = job.stage(name)
        if stage.type == PREPARE:
            raise CommandError(f"{name}: makes no product", Exit.INVALID)
        if stage.product is None or not _made(job, name):
            words = f"{stage.state}{f': {stage.message}' if stage.message else ''}"
            raise CommandError(f"{name}: has no product yet ({words})", Exit.FAILED)
        by_stage[name] = stage.product
    return _plain(by_stage)


def _plain(names: Mapping[str, str]) -> dict[str, str]:
    """Products by stage, as they become folders here: a status may have been forged.

    Raises:
        CommandError: a name is none.
    """
    for stage, product in names.items():
        if not NAME.fullmatch(stage) or not NAME.fullmatch(product):
            raise CommandError(f"the status names a stage {stage!r} and its product {product!r}; expected plain names")
    return dict(names)


def _expect_room(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    if total > free:
        raise CommandError(f"{folder.parent}: has {size(free)} free; {size(total)} are to come")


def product(reader: Reader, name: str, target: Path, tell: Callable[[int, int], None]) -> bool:
    """Copy a product to a folder; gives whether it was copied: False if it was there already.

    Args:
        reader: of the storage.
        name: of the product: `<type>-<digest>`.
        target: the folder to write.
        tell: told of bytes that came, and of all.

    Raises:
        CommandError: it is not on the storage, or damaged; or the target is something else.
    """
    folder = f"products/{name}"
    sizes = reader.sizes(folder)
    if f"{folder}/{MANIFEST}" not in sizes:
        raise CommandError(f"{name}: is not on the storage any more; submit the job again to make it", Exit.FAILED)
    if sizes[f"{folder}/{MANIFEST}"] > MAX_MANIFEST:
        raise CommandError(f"{name}: {MANIFEST} has more than {MAX_MANIFEST} bytes", Exit.FAILED)
    with beside(target) as temporary:
        reader.fetch({f"{folder}/{MANIFEST}": sizes[f"{folder}/{MANIFEST}"]}, temporary)
        if target.exists():
            if holds(target, (temporary / folder / MANIFEST).read_bytes()):
                return False
            raise CommandError(f"{target}: is there and is not {name}; name another folder with --to", Exit.INVALID)
        total = sum(sizes.values())
        _expect_room(temporary, total)
        reader.fetch(sizes, temporary, lambda count: tell(count, total))
        try:
            received = find_verified(temporary, name)
        except DamagedProduct as damage:
            raise CommandError(f"{damage}: it is so on the storage, or was changed on its way", Exit.FAILED) from damage
        if received is None:
            raise CommandError(f"{name}: did not arrive", Exit.FAILED)
        received.path.rename(target)
    return True


def logs(reader: Reader, job: ClusterJob, target: Path, tell: Callable[[int, int], None]) -> int:
    """Copy what the stages logged and measured to a folder, which is replaced; gives the number of files."""
    root = f"work/{job.uid}"
    folders = [f"{root}/{stage.name}" for stage in job.status.stages]
    sizes = {path: count for path, count in reader.sizes(*folders).items() if _kept(PurePosixPath(path))}
    if not sizes:
        return 0
    total = sum(sizes.values())
    with beside(target) as temporary:
        _expect_room(temporary, total)
        reader.fetch(sizes, temporary, lambda count: tell(count, total))
        if target.exists():
            target.rename(temporary / "before")
        (temporary / root).rename(target)
    return len(sizes)


def holds(folder: Path, manifest: bytes) -> bool:
    """Whether a folder is the product of that manifest, every byte of it."""
    if not (folder / MANIFEST).is_file() or (folder / MANIFEST).read_bytes() != manifest:
        return False
    try:
        files = Manifest.model_validate_json(manifest).files
    except ValidationError:
        return False
    digests = digest_tree(folder)
    del digests[MANIFEST]
    return digests == files


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target, to rename from; it is removed afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".pull-", dir=target.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _made(job: ClusterJob, name: str) -> bool:
    """Whether its product is in place: a failed gate leaves it there."""
    stage = job.stage(name)
    return stage.state in COMPLETE or stage.reason == GATE_FAILED


def _kept(path: PurePosixPath) -> bool:
    return path.parts[3] in KEPT
