"""`<storage>/inputs/<digest>/`: the content of inputs, put in place whole, found again by what it is.

inputs/<digest>/...             files of the input
inputs/.records/<digest>.json   SHA-256, size, time and inode of each, so that a look says whether one was changed; a
                                damaged one is as good as none
inputs/.records/hub-<key>.json  which digest a commit of a hub repository has
inputs/.<random>/               being fetched
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, StringConstraints, ValidationError

from rlhf_api.bounded import Unreadable, read_bytes
from rlhf_api.digest import digest_file, digest_of, short_digest
from rlhf_api.store import write_atomically
from rlhf_trainer.exits import InputError, explain_full_disk
from rlhf_trainer.sources.folder import files_below, open_real

LINK_FROM = 16 * 2**20
"""Bytes from which a local file is hard-linked instead of copied."""
MAX_RECORD = 64 << 20
"""Bytes of a record: names and digests of MAX_FILES files."""
NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class CachedInput:
    """Content in place."""

    path: Path
    """Its folder."""
    digest: str
    """Of names and bytes, 40 hex digits."""
    bytes: int
    """Size of all files."""


Identity = tuple[int, int, int, int]
"""(device, inode, size, time of the last change in ns) of a file."""


class _Record(BaseModel):
    """What is noted of kept content."""

    version: Literal["1"] = "1"
    files: dict[str, tuple[str, int, int, int, int]]
    """By relative name: SHA-256 and identity."""


class _Commit(BaseModel):
    """Which digest a commit's files have; the key stands beside it, for people."""

    digest: Annotated[str, StringConstraints(pattern="^[0-9a-f]{40}$")]


class InputCache:
    """The `inputs/` folder of a storage."""

    def __init__(self, storage: Path) -> None:
        self.root = storage / "inputs"
        self._records = self.root / ".records"

    def take(self, files: dict[str, Path]) -> CachedInput:
        """Keep local files under their relative names: linked where large and on the same file system, else copied.

        Raises:
            StorageFull: no space.
            InputError: a file may not be read, or changed while it was copied.
        """
        known_hashes = self._known()
        identities: dict[str, Identity] = {}
        hashes: dict[str, str] = {}
        for name, path in files.items():
            with open_real(path) as file:
                identities[name] = _identity(os.fstat(file.fileno()))
                hashes[name] = known_hashes.get(identities[name]) or hashlib.file_digest(file, "sha256").hexdigest()
        digest = content_digest(hashes)
        cached = self.find(digest)
        if cached is not None:
            return cached
        with self.staging() as staging:
            for name, path in files.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if _link(path, target, identities[name]):
                    continue
                if _copy(path, target) != hashes[name]:
                    raise InputError(f"{path}: changed while it was copied. Run again when nothing writes to it")
            return self._place(staging, hashes, digest)

    def adopt(self, staging: Path) -> CachedInput:
        """Keep what was fetched into a staging folder.

        Raises:
            InputError: nothing is in it.
        """
        hashes = {name: digest_file(path) for name, path in files_below(staging).items()}
        if not hashes:
            raise InputError("nothing was fetched")
        digest = content_digest(hashes)
        return self.find(digest) or self._place(staging, hashes, digest)

    def find(self, digest: str) -> CachedInput | None:
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

    def recall(self, key: dict[str, Any]) -> CachedInput | None:
        """The content of a commit fetched before; None: not there any more."""
        try:
            noted = _Commit.model_validate_json(read_bytes(self._hub(key)))
        except (Unreadable, ValidationError):  # not there, or damaged: fetched again
            return None
        return self.find(noted.digest)

    def _hub(self, key: dict[str, Any]) -> Path:
        return self._records / f"hub-{digest_of(key)[:32]}.json"

    def _place(self, staging: Path, hashes: dict[str, str], digest: str) -> CachedInput:
        """Rename into place, the record first: content without one counts as damaged."""
        target = self.root / digest
        with self._locked():
            if verify(target) is not None:
                shutil.rmtree(target, ignore_errors=True)
                files = files_below(staging)
                _hide_from_others(staging)
                _write_record(target, hashes, files)
                staging.rename(target)
        return self._kept(digest)

    def _kept(self, digest: str) -> CachedInput:
        folder = self.root / digest
        return CachedInput(folder, digest, sum(path.stat().st_size for path in files_below(folder).values()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time puts content in place or removes it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _known(self) -> dict[Identity, str]:
        """SHA-256 by identity, of files linked before: a large model is hashed once. Damaged records say nothing."""
        hashes: dict[Identity, str] = {}
        for path in self._records.glob("[0-9a-f]*.json"):
            record = _read_record(path)
            if record is not None:
                hashes.update({entry[1:]: entry[0] for entry in record.files.values()})
        return hashes


def content_digest(hashes: dict[str, str]) -> str:
    """Digest of an input, by its files' SHA-256 and relative names; of a single file the name's suffixes alone."""
    if len(hashes) == 1:
        ((name, sha),) = hashes.items()
        return short_digest({"".join(Path(name).suffixes): sha})
    return short_digest(hashes)


def _record(folder: Path) -> Path:
    return folder.parent / ".records" / f"{folder.name}.json"


def is_kept(folder: Path) -> bool:
    """Whether a folder is one that an InputCache put in place, and so can be verified."""
    return _record(folder).is_file()


def verify(folder: Path) -> str | None:
    """What was changed in a kept input since it was kept, in words; None where nothing was.

    A look at sizes and times, not at bytes: cheap enough for every stage. Where the record is damaged, all is read, and
    if the content is what the folder's name says, the record is written anew.
    """
    if not folder.is_dir() or not is_kept(folder):
        return f"{folder} is not there, or not known"
    try:
        files = files_below(folder)
    except InputError as error:
        return f"{folder}: {error}"
    record = _read_record(_record(folder))
    if record is None:
        hashes = {name: digest_file(path) for name, path in files.items()}
        if content_digest(hashes) != folder.name:
            return f"{folder}: its record is damaged, and its content is not what its name says"
        _write_record(folder, hashes, files)
        return None
    if files.keys() != record.files.keys():
        return f"{folder}: files {', '.join(sorted(files.keys() ^ record.files.keys())[:3])} appeared or went"
    for name, (sha, *identity) in sorted(record.files.items()):
        # Device and inode differ between machines that mount the same storage; size and time do not.
        if _identity(files[name].stat())[2:] != (*identity[2:],) and digest_file(files[name]) != sha:
            return f"{folder / name} was changed"
    return None


def _read_record(path: Path) -> _Record | None:
    """A record; None: there is none, or it is damaged, which is the same."""
    try:
        return _Record.model_validate_json(read_bytes(path, MAX_RECORD), strict=True)
    except (Unreadable, ValidationError):
        return None


def _write_record(folder: Path, hashes: dict[str, str], files: dict[str, Path]) -> None:
    entries = {name: (hashes[name], *_identity(path.stat())) for name, path in files.items()}
    write_atomically(_record(folder), _Record(files=entries).model_dump_json().encode())


def _identity(status: os.stat_result) -> Identity:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _link(path: Path, target: Path, identity: Identity) -> bool:
    """Link a large file, if it can be; it must still be the one that was hashed."""
    if identity[2] < LINK_FROM:
        return False
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in NO_LINK:
            return False
        raise
    if _identity(target.lstat()) != identity:
        raise InputError(f"{path}: changed while it was linked. Run again when nothing writes to it")
    return True


def _copy(path: Path, target: Path) -> str:
    """Copy a file; gives the SHA-256 of what was copied."""
    sha = hashlib.sha256()
    with open_real(path) as source, target.open("xb") as copied:
        while block := source.read(1 << 20):
            sha.update(block)
            copied.write(block)
    return sha.hexdigest()


def _hide_from_others(folder: Path) -> None:
    """Take all rights of others away: what was fetched with a token is not for every user of a machine.

    A file that is linked here has the rights that its owner gave it; its folder is closed.
    """
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        if path.is_dir() or status.st_nlink == 1:
            with suppress(PermissionError, NotImplementedError):  # file systems without rights of their own (CIFS)
                path.chmod(stat.S_IMODE(status.st_mode) & ~0o007)
