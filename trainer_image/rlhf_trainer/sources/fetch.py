"""Fetch one input, from wherever it comes, into the storage."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

from rlhf_api.bounded import exists
from rlhf_api.contract import CLAIMS
from rlhf_api.error_messages import nearest
from rlhf_api.job import Input
from rlhf_api.memory.local_facts import local_path
from rlhf_api.packages import package_folder
from rlhf_api.sources import Source, parse_source
from rlhf_trainer.exits import InputError, StageError
from rlhf_trainer.sources.cache import CachedInput, InputCache
from rlhf_trainer.sources.folder import files_below
from rlhf_trainer.sources.hub import COMMIT, fetch_hub
from rlhf_trainer.sources.licence import told_licence


class FetchFailed(StageError):
    """A store does not answer: trying again may help."""

    reason = "FetchFailed"


@dataclass(frozen=True)
class Fetched:
    """An input in the storage."""

    path: Path
    """Folder with its files."""
    digest: str
    """Of its content, 40 hex digits."""
    bytes: int
    """Size of its files."""
    source: str
    """As written, without credentials."""
    commit: str | None = None
    """Of a hub repository."""
    licence: str | None = None
    """As the source says; else as the job says; None: not disclosed."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know."""


def fetch(entry: Input, storage: Path, job_folder: Path, environment: Mapping[str, str] = os.environ) -> Fetched:
    """Fetch an input into `<storage>/inputs/<digest>/`, or find it there.

    Raises:
        InputError: the source is wrong, or there is nothing; the message names it.
        StageError: it could not be reached now.
    """
    try:
        source = parse_source(entry.source)
    except ValueError as error:
        raise InputError(f"inputs[{entry.name}].source: {error}") from error
    text = redact(entry.source)
    cache = InputCache(storage)
    commit = None
    notes = []
    if source.kind in ("hub-model", "hub-data"):
        files = fetch_hub(source, cache, entry.subset, entry.split)
        cached, commit = files.cached, files.commit
        if not COMMIT.fullmatch(source.revision):
            notes.append(f"{text}: the revision is commit {commit} now; write that commit to get the same again")
    elif source.kind == "url":
        cached = fetch_url(source.location, cache)
    else:
        cached = cache.take(_local_files(_local_path(source, text, job_folder, environment), text))
    stated_licence = told_licence(cached.path)
    if stated_licence is not None and entry.licence is not None and stated_licence.lower() != entry.licence.lower():
        notes.append(f"{text}: says its licence is {stated_licence}, the job says {entry.licence}")
    return Fetched(cached.path, cached.digest, cached.bytes, text, commit, stated_licence or entry.licence, notes)


def in_place(entry: Input, job_folder: Path, work: Path) -> tuple[Path, int] | None:
    """A local input where it lies: (folder with its files, their bytes); None: it is not on this machine.

    A single file is linked into a folder below `work`, as what reads inputs takes folders.

    Raises:
        InputError: as `fetch`.
    """
    path = local_path(entry.source, job_folder)
    source = parse_source(entry.source)
    if source.kind == "package" and (path is None or not exists(path)):
        _refuse_misspelt(source, path)
    if path is None or not exists(path):
        return None
    files = _local_files(path, entry.source)
    size = sum(file.stat().st_size for file in files.values())
    if path.is_dir():
        return path, size
    folder = work / entry.name
    folder.mkdir(parents=True)
    for name, file in files.items():
        (folder / name).symlink_to(file)
    return folder, size


def _refuse_misspelt(source: Source, path: Path | None) -> None:
    """Refuse a file that an installed package has not, and a package whose name is nearly an installed one's.

    Raises:
        InputError: says what is there.
    """
    if path is not None:
        names = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
        near = nearest(path.name, names)
        hint = f" (did you mean {near}?)" if near else ""
        raise InputError(f"the package {source.location} is installed here and has no {source.path}{hint}")
    near = nearest(source.location, packages_distributions())
    if near is not None:
        raise InputError(f"no package {source.location} is installed here (did you mean {near}?)")


def redact(text: str) -> str:
    """A source without user, password and query, which may hold credentials."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme in ("hf", "pvc", "package"):
        return text
    return f"{scheme}://{re.sub('^[^/@]*@', '', rest).partition('?')[0]}"


def _local_path(source: Source, text: str, job_folder: Path, environment: Mapping[str, str]) -> Path:
    claims = environment.get(CLAIMS)
    if source.kind == "claim":
        if not claims:
            raise InputError(f"{text}: a claim can be read on a cluster only; give a path, or run the job there")
        mounted = Path(claims) / source.location
        if not mounted.is_dir():
            raise InputError(f"{text}: the claim {source.location!r} is not mounted into prepare")
        if not (mounted / source.path).resolve().is_relative_to(mounted.resolve()):
            raise InputError(f"{text}: a link leads out of the claim; expected a file or folder of it")
        return mounted / source.path
    if source.kind == "package":
        package = package_folder(source.location)
        if package is None:
            top = source.location.partition(".")[0]
            raise InputError(f"{text}: no package {top!r} is installed here. Install it, or give another source")
        return package / source.path
    if claims:
        raise InputError(f"{text}: a path works with the local runner only; on a cluster use pvc://claim/path")
    return job_folder / source.location


def _local_files(path: Path, text: str) -> dict[str, Path]:
    if not exists(path):
        raise InputError(f"{text}: no such file or folder ({path})")
    try:
        files = files_below(path)
    except InputError as error:
        raise InputError(f"{text}: {error}") from error
    if not files:
        raise InputError(f"{text}: the folder holds no file ({path})")
    return files


def fetch_url(url: str, cache: InputCache) -> CachedInput:
    """Fetch a file or folder by fsspec.

    Raises:
        InputError: unknown scheme, missing package, nothing there, or no right to it.
        FetchFailed: the store does not answer.
    """
    import fsspec
    from fsspec.implementations.http import HTTPFileSystem

    text = redact(url)
    if "::" in url:  # a chain of file systems: its last part may be a file of this machine
        raise InputError(f"{text}: found ::; expected one address")
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InputError(f"{text}: {error}") from error
    with cache.staging() as staging:
        try:
            # Over HTTP there are no folders, and asking what is there hides why nothing is.
            if isinstance(system, HTTPFileSystem) or system.info(root)["type"] == "file":
                system.get_file(root, str(staging / (PurePosixPath(root.partition("?")[0]).name or "file")))
            else:
                _fetch_folder(system, root, staging, text)
        except (FileNotFoundError, PermissionError) as error:
            raise InputError(f"{text}: {type(error).__name__}: nothing there, or no right to read it") from error
        except StageError:
            raise
        except Exception as error:  # every store has errors of its own
            if getattr(error, "status", None) in (401, 403):
                raise InputError(f"{text}: refused ({type(error).__name__}): no right to read it") from error
            reason = str(error).replace(url, text)
            raise FetchFailed(f"{text}: could not be fetched ({type(error).__name__}: {reason})") from error
        return cache.adopt(staging)


def _fetch_folder(system: object, root: str, staging: Path, text: str) -> None:
    names = system.find(root)  # type: ignore[attr-defined]  # fsspec ships no types
    if not names:
        raise InputError(f"{text}: nothing there")
    base = root.rstrip("/") + "/"
    for name in names:
        relative = PurePosixPath(name[len(base) :] if name.startswith(base) else PurePosixPath(name).name)
        if ".." in relative.parts or relative.is_absolute():
            raise InputError(f"{text}: the name {name!r} leaves its folder")
        target = staging / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(name, str(target))  # type: ignore[attr-defined]
