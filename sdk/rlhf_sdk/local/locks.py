"""One runner a job, and no garbage collection while someone resolves: flock on files in the storage."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Busy(Exception):
    """Someone else holds the lock; `.pid` says who, if it is known and alive."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"held by process {pid}" if pid else "held")
        self.pid = pid


class FileLock:
    """An flock. Held by every process that inherits `fileno`; gone with the last of them, however it ends."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._shared = shared
        self._handle: int | None = None

    @property
    def fileno(self) -> int:
        """For processes that should hold it too."""
        if self._handle is None:
            raise RuntimeError(f"{self.path}: not locked")
        return self._handle

    def acquire(self, *, wait: bool = False) -> None:
        """Take it.

        Raises:
            Busy: someone else holds it, and `wait` is false.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        kind = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
        try:
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            raise Busy(alive(int(text)) if text.isdigit() else None) from None
        except BaseException:
            os.close(handle)
            raise
        if not self._shared:
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Let this process's hold go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        self.acquire(wait=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether someone holds the lock."""
    if not path.exists():
        return False
    lock = FileLock(path, shared=True)
    try:
        lock.acquire()
    except Busy:
        return True
    lock.release()
    return False


def alive(pid: int) -> int | None:
    """The pid, if such a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return pid
    return pid
