"""The files of a folder that someone else may write to: regular ones, and of links those alone that stay inside.

A link would lead `prepare`, which holds tokens and has every claim mounted, to what its user may not read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from rlhf_api.bounded import kind_of
from rlhf_trainer.exits import InputError

MAX_FILES = 100_000
"""Of an input."""
MAX_FOLDERS = 64
"""Folders in folders: their names must fit a path."""
O_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)


def files_below(path: Path) -> dict[str, Path]:
    """Files by relative name, hidden ones left out; a single file by its own name. The paths hold no link.

    The path itself may be a link. Links below it may lead to files inside it (in a folder of the hub's cache: also to
    the cache's blobs); those to folders inside it are left out, as the files are listed where they lie.

    Raises:
        InputError: a link leads outside or nowhere; something is neither file nor folder; too many files.
    """
    root = _resolved(path, path.name)
    mode = root.stat().st_mode
    if not stat.S_ISDIR(mode):
        _expect_regular(mode, str(path))
        return {path.name: root}
    files: dict[str, Path] = {}
    for name, entry in _entries(root):
        target = Path(entry)
        if entry.is_symlink():
            target = _resolved(target, name)
            if not _is_inside(target, root):
                raise InputError(
                    f"{name}: a link to {str(Path(entry).readlink())!r}, outside of its folder {path}; expected files, or links "
                    "that stay inside (copy what it leads to into the folder)"
                )
            if target.is_dir():
                continue
        _expect_regular(target.stat().st_mode, name)
        if name.encode(errors="replace").decode() != name:
            raise InputError(f"{name}: a file's name that is not UTF-8; rename it")
        files[name] = target
        if len(files) > MAX_FILES:
            raise InputError(f"{path}: holds more than {MAX_FILES} files; expected at most so many")
    return dict(sorted(files.items()))


def _entries(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All that is no folder below one, by relative name; links are not followed, what is hidden is left out."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        if below.count("/") > MAX_FOLDERS:
            raise InputError(f"{below[:80]}...: folders nested more than {MAX_FOLDERS} deep; expected at most so many")
        with os.scandir(root / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                else:
                    yield name, entry


def _resolved(path: Path, name: str) -> Path:
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise InputError(f"{name}: a link that leads nowhere ({path}); expected a file") from error


def _is_inside(target: Path, root: Path) -> bool:
    """Whether a file lies below the root; of a snapshot in the hub's cache, also among that repository's blobs."""
    blobs = root.parent.parent / "blobs"
    return target.is_relative_to(root) or (root.parent.name == "snapshots" and target.parent == blobs)


def _expect_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: found {kind_of(mode)}; expected a file")


def open_real(path: Path) -> BufferedReader:
    """Open a regular file by a path without links; a link that was put into it meanwhile is not followed.

    Raises:
        InputError: it is none any more, or may not be read.
    """
    folder = os.open(path.anchor, O_FOLDER)
    try:
        for part in path.parts[1:-1]:
            below = os.open(part, O_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(path.name, flags, dir_fd=folder)
    except PermissionError as error:
        raise InputError(
            f"{path}: user {os.geteuid()} may not read it ({error.strerror}). A claim that is mounted to be read keeps "
            "its files' owners: let everyone read them (chmod -R a+rX)"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.ENXIO):
            raise
        raise InputError(f"{path}: was replaced while it was read. Run again when nothing writes to it") from error
    finally:
        os.close(folder)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise InputError(f"{path}: was replaced while it was read. Run again when nothing writes to it")
    return file
