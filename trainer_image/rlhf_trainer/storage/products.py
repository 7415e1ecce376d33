"""Making products: one writer at a time, whole or not at all, and never by a stale attempt.

Reading and verifying is `rlhf_api.store`'s; executors share it.

    products/.<type>-<digest>.<random>/     being built
    products/.damaged-<type>-<digest>.<n>/  moved aside because a file was changed
    locks/<type>-<digest>/<n>.json          the writer's lease; the highest n holds it
    work/<uid>/<stage>/fence.json           UID and attempt that may write
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson

from rlhf_api.digest import digest_tree
from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile
from rlhf_api.store import MANIFEST, DamagedProduct, Product, find_verified, read_product, write_atomically
from rlhf_trainer.exits import StageError, explain_full_disk
from rlhf_trainer.storage.fsync import sync_folder, sync_tree, write_synced

log = logging.getLogger(__name__)


class Fenced(StageError):
    """A later attempt of this stage has started: this one may not write any more."""

    reason = "Fenced"


def product_name(file: StageFile) -> str:
    """`<type>-<digest>`."""
    return f"{file.type}-{file.digest}"


def product_path(storage: Path, file: StageFile) -> Path:
    """Where the stage's product is to lie."""
    return storage / "products" / product_name(file)


def inode(storage: Path, name: str) -> int | None:
    """Tells a product's folder from one put in its place later; None: there is none."""
    try:
        return (storage / "products" / name).stat().st_ino
    except FileNotFoundError:
        return None


def put_since(storage: Path, name: str, before: int | None) -> bool:
    """Whether a product's folder is there that is not the one of inode `before`."""
    return inode(storage, name) not in (None, before)


def look(storage: Path, name: str) -> tuple[Product | None, int | None]:
    """The product if every byte of it is what was made, and the inode of what was found."""
    inode_number = inode(storage, name)
    try:
        return find_verified(storage, name), inode_number
    except DamagedProduct as damage:
        log.warning("product is not reused: %s", damage)
        return None, inode_number


def reusable(storage: Path, name: str) -> Product | None:
    """The product if every byte of it is what was made; a damaged one is moved aside, reported and rebuilt.

    For the holder of the product's lock alone: another could move aside what was rebuilt meanwhile.
    """
    try:
        return find_verified(storage, name)
    except DamagedProduct as damage:
        aside = storage / "products" / f".damaged-{name}.{secrets.token_hex(4)}"
        (storage / "products" / name).rename(aside)
        log.warning("product is not reused: %s; moved aside to %s and rebuilt", damage, aside)
        return None


def publish(storage: Path, file: StageFile, build: Callable[[Path], Manifest]) -> Path:
    """Build a product beside its place and rename it in. A product that is already there is success.

    Args:
        build: fills the folder and gives the manifest; its `files` are filled in here.

    Raises:
        Fenced: a later attempt of this stage has started.
        StorageFull: no space; nothing half-written is left.
    """
    final = product_path(storage, file)
    beside = final.with_name(f".{final.name}.{secrets.token_hex(6)}")
    with explain_full_disk(final.parent, f"writing the product of {file.stage}"):
        beside.mkdir(parents=True)
        try:
            manifest = build(beside)
            manifest = manifest.model_copy(update={"files": digest_tree(beside)})
            write_synced(beside / MANIFEST, manifest.model_dump_json(indent=1).encode())
            sync_tree(beside)
            check_fence(file)
            _swap_in(storage, beside, final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return final


def _swap_in(storage: Path, beside: Path, final: Path) -> None:
    try:
        beside.rename(final)
    except OSError:
        if read_product(storage, final.name) is None:
            raise
        log.info("product %s was put in place by another run meanwhile: it is used", final.name)
    sync_folder(final.parent)


def fence_path(file: StageFile) -> Path:
    """The stage's fence file."""
    return Path(file.directories.work) / "fence.json"


def raise_fence(file: StageFile) -> None:
    """Take the work folder for this attempt.

    Raises:
        Fenced: a later attempt has it.
    """
    check_fence(file)
    write_atomically(fence_path(file), orjson.dumps({"uid": file.uid, "attempt": file.attempt}))


def check_fence(file: StageFile) -> None:
    """Make sure that no later attempt has taken the work folder.

    Raises:
        Fenced: one has.
    """
    path = fence_path(file)
    if not path.exists():
        return
    fence = orjson.loads(path.read_bytes())
    if fence["uid"] != file.uid or fence["attempt"] > file.attempt:
        raise Fenced(
            f"{path}: attempt {fence['attempt']} of {fence['uid']} has started; this is attempt {file.attempt} of "
            f"{file.uid}, which may write nothing any more"
        )
