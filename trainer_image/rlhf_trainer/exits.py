"""Exceptions that end a stage process with one of the exit codes of `rlhf_api.contract`."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_api.contract import (
    DONE,
    FAILURE,
    GUARD,
    GUARD_TRIPPED,
    INVALID_INPUT,
    STOPPED,
    STOPPED_ON_REQUEST,
    UNEXPLAINED,
    WRONG_INPUT,
)

if TYPE_CHECKING:  # the image builds DeepSpeed's op with this module and without pydantic
    from pydantic import ValidationError

__all__ = ["DONE", "FAILURE", "GUARD", "STOPPED", "WRONG_INPUT"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write for which there is no room."""


def severity(code: int) -> int:
    """How loud a log tells of an end: a stop that was asked for is none to look into."""
    return logging.INFO if code in (DONE, STOPPED) else logging.ERROR


class StageError(Exception):
    """Ends a stage with an exit code and a reason (one word, CamelCase).

    The message names the field or file, what was found, what was expected and how to mend it.
    """

    code: int = FAILURE
    reason: str = UNEXPLAINED

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message.encode(errors="replace").decode())  # half a surrogate pair cannot be written anywhere
        if reason is not None:
            self.reason = reason


class InputError(StageError):
    """The input or the configuration is wrong: trying again cannot help."""

    code = WRONG_INPUT
    reason = INVALID_INPUT


class GuardTripped(StageError):
    """A bound that protects the run was passed: reason `KL`, `Infeasible`, `GateFailed`, `NaN`, ..."""

    code = GUARD
    reason = GUARD_TRIPPED


class Stopped(StageError):
    """Stopped on request, with a checkpoint."""

    code = STOPPED
    reason = STOPPED_ON_REQUEST


class StorageFull(StageError):
    """No space is left where the stage writes. A failure: with space, trying again helps."""

    reason = "StorageFull"


@contextmanager
def explain_full_disk(folder: Path, doing: str) -> Iterator[None]:
    """Turn "no space left" into an error that names the folder, its free space and what was being written.

    Raises:
        StorageFull: the device, the quota or the file-size limit is exhausted.
    """
    try:
        yield
    except Exception as error:
        if not no_space(error):
            raise
        raise StorageFull(full_disk_message(folder, doing)) from error


def no_space(error: Exception) -> bool:
    """Whether a failed write means that space, the quota or the file-size limit is exhausted.

    safetensors tells the errno in its text alone; torch.save tells only that its archive writer failed.
    """
    if isinstance(error, OSError):
        return error.errno in FULL
    text = str(error)
    return "inline_container" in text or any(f"(os error {number})" in text for number in FULL)


def full_disk_message(folder: Path, doing: str) -> str:
    """What to tell a person about a full disk: where, how much is free, what to do."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return (
        f"no space left while {doing} in {folder}: {free / 2**20:.1f} MiB free. "
        "Nothing half-written is used. Free space (`rlhf gc` lists products no run uses) or enlarge the volume; "
        "the stage goes on from its last checkpoint."
    )


def validation_message(error: ValidationError) -> str:
    """Every problem of a validation as `path: message`, joined by `; `."""
    return "; ".join(
        ".".join(str(part) for part in problem["loc"]) + f": {problem['msg']}" for problem in error.errors()
    )
