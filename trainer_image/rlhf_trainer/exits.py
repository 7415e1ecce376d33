"""Exit codes of a stage process, and the exceptions that carry them.

| code | meaning | retried |
|---|---|---|
| 0 | done: the product is in place | |
| 2 | input or configuration wrong | no |
| 3 | a guard tripped; the checkpoint is kept | no |
| 75 | stopped on request, with a checkpoint | resumed |
| other | failure | yes |
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DONE = 0
FAILURE = 1
WRONG_INPUT = 2
GUARD = 3
STOPPED = 75
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write for which there is no room."""


def severity(code: int) -> int:
    """How loud a log tells of an end: a stop that was asked for is none to look into."""
    return logging.INFO if code in (DONE, STOPPED) else logging.ERROR


class StageError(Exception):
    """Ends a stage with an exit code and a reason (one word, CamelCase).

    The message names the field or file, what was found, what was expected and how to mend it.
    """

    code = FAILURE
    reason = "Failure"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message.encode(errors="replace").decode())  # half a surrogate pair cannot be written anywhere
        if reason is not None:
            self.reason = reason


class InputError(StageError):
    """The input or the configuration is wrong: trying again cannot help."""

    code = WRONG_INPUT
    reason = "InvalidInput"


class GuardTripped(StageError):
    """A bound that protects the run was passed: reason `KL`, `Infeasible`, `GateFailed`, `NaN`, ..."""

    code = GUARD
    reason = "Guard"


class Stopped(StageError):
    """Stopped on request, with a checkpoint."""

    code = STOPPED
    reason = "Stopped"


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
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    return (
        f"no space left while {doing} in {folder}: {free / 2**20:.1f} MiB free. "
        "Nothing half-written is used. Free space (`rlhf gc` lists products no run uses) or enlarge the volume; "
        "the stage goes on from its last checkpoint."
    )
