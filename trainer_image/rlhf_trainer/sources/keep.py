"""`<storage>/inputs/<digest>/`: the content of inputs, put in place whole, found again by what it is.

inputs/<digest>/...             files of the input
inputs/.records/<digest>.json   SHA-256, size, time and inode of each, so that a look says whether one was changed
inputs/.records/hub-<key>.json  which digest a commit of a hub repository has
inputs/.<random>/               being fetched
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from rlhf_api.digest import digest_file, digest_of, short_digest
from rlhf_api.store import write_atomically
from rlhf_trainer.exits import InputError, explain_full_disk

LINK_FROM = 16 * 2**20
"""Bytes from which a local file is hard-linked instead of copied."""
NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Kept:
    """Content in place."""

    path: Path
    """Its folder."""
    digest: str
    """Of names and bytes, 40 hex digits."""
    bytes: int
    """Size of all files."""


class Keeper:
    """The `inputs/` folder of a storage."""

    def __init__(self, storage: Path) -> None:
        self.root = storage / "inputs"
        self._records = self.root / ".records"

    def take(self, files: dict[str, Path]) -> Kept:
        """Keep local files under their relative names: linked where large and on the same file system, else copied.

        Raises:
            StorageFull: no space.
            InputError: a file may not be read, or changed while it was copied.
        """
        known = self._known()
        hashes = {name: known.get(_identity(path)) or _digest(path) for name, path in files.items()}
        digest = content_digest(hashes)
        kept = self.find(digest)
        if kept is not None:
            return kept
        with self.staging() as staging:
            for name, path in files.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not _link(path, target):
                    shutil.copyfile(path, target)
                    if digest_file(target) != hashes[name]:
                        raise InputError(f"{path}: changed while it was copied. Run again when nothing writes to it")
            return self._place(staging, hashes, digest)

    def adopt(self, staging: Path) -> Kept:
        """Keep what was fetched into a staging folder.

        Raises:
            InputError: nothing is in it.
        """
        hashes = {name: digest_file(path) for name, path in files_below(staging).items()}
        if not hashes:
            raise InputError("nothing was fetched")
        digest = content_digest(hashes)
        return self.find(digest) or self._place(staging, hashes, digest)

    def find(self, digest: str) -> Kept | None:
        """Content of that digest, unchanged since it was kept; changed content is removed."""
        folder = self.root / digest
        if not folder.exists():
            return None
        if verify(folder) is not None:
            with self._locked():
                if verify(folder) is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    return None
        return self._kept(digest)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder to fetch into; whatever is left in it goes.

        Raises:
            StorageFull: no space.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / f".{secrets.token_hex(8)}"
        with explain_full_disk(self.root, "fetching inputs"):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def remember(self, key: dict[str, Any], digest: str) -> None:
        """Note which digest a commit's files have."""
        write_atomically(self._hub(key), orjson.dumps({**key, "digest": digest}))

    def recall(self, key: dict[str, Any]) -> Kept | None:
        """The content of a commit fetched before; None: not there any more."""
        path = self._hub(key)
        return self.find(orjson.loads(path.read_bytes())["digest"]) if path.is_file() else None

    def _hub(self, key: dict[str, Any]) -> Path:
        return self._records / f"hub-{digest_of(key)[:32]}.json"

    def _place(self, staging: Path, hashes: dict[str, str], digest: str) -> Kept:
        """Rename into place, the record first: content without one counts as damaged."""
        target = self.root / digest
        with self._locked():
            if verify(target) is not None:
                shutil.rmtree(target, ignore_errors=True)
                entries = {name: [hashes[name], *_identity(path)] for name, path in files_below(staging).items()}
                record = orjson.dumps({"version": "1", "files": entries})
                write_atomically(self._records / f"{digest}.json", record)
                staging.rename(target)
        return self._kept(digest)

    def _kept(self, digest: str) -> Kept:
        folder = self.root / digest
        return Kept(folder, digest, sum(path.stat().st_size for path in files_below(folder).values()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time puts content in place or removes it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _known(self) -> dict[tuple[int, ...], str]:
        """SHA-256 by identity, of files linked before: a large model is hashed once."""
        known: dict[tuple[int, ...], str] = {}
        for path in self._records.glob("*.json"):
            entries = orjson.loads(path.read_bytes()).get("files", {})
            known.update({tuple(identity): sha for sha, *identity in entries.values()})
        return known


def content_digest(hashes: dict[str, str]) -> str:
    """Digest of an input, by its files' SHA-256 and relative names; of a single file the name's suffixes alone."""
    if len(hashes) == 1:
        ((name, sha),) = hashes.items()
        return short_digest({"".join(Path(name).suffixes): sha})
    return short_digest(hashes)


def _record(folder: Path) -> Path:
    return folder.parent / ".records" / f"{folder.name}.json"


def is_kept(folder: Path) -> bool:
    """Whether a folder is one that a Keeper put in place, and so can be verified."""
    return _record(folder).is_file()


def verify(folder: Path) -> str | None:
    """What was changed in a kept input since it was kept, in words; None where nothing was.

    A look at sizes and times, not at bytes: cheap enough for every stage.
    """
    if not folder.is_dir() or not is_kept(folder):
        return f"{folder} is not there, or not known"
    entries = orjson.loads(_record(folder).read_bytes())["files"]
    files = files_below(folder)
    if files.keys() != entries.keys():
        return f"{folder}: files {', '.join(sorted(files.keys() ^ entries.keys())[:3])} appeared or went"
    for name, (sha, *identity) in sorted(entries.items()):
        # Device and inode differ between machines that mount the same storage; size and time do not.
        if _identity(files[name])[2:] != tuple(identity[2:]) and digest_file(files[name]) != sha:
            return f"{folder / name} was changed"
    return None


def files_below(root: Path) -> dict[str, Path]:
    """Files by relative name, hidden ones left out; a single file by its own name."""
    if root.is_file():
        return {root.name: root}
    found = {path.relative_to(root): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in found.items() if not any(p.startswith(".") for p in name.parts)}


def _identity(path: Path) -> tuple[int, ...]:
    """(device, inode, size, time of the last change)."""
    there = path.stat()
    return (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns)


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except PermissionError as error:
        raise InputError(
            f"{path}: user {os.geteuid()} may not read it ({error.strerror}). A claim that is mounted to be read keeps "
            "its files' owners: let everyone read them (chmod -R a+rX)"
        ) from error


def _link(path: Path, target: Path) -> bool:
    if path.stat().st_size < LINK_FROM:
        return False
    try:
        os.link(path.resolve(), target)
    except OSError as error:
        if error.errno in NO_LINK:
            return False
        raise
    return True
