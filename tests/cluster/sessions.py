"""Control planes of test processes: each in a folder named for its process, so that a killed one's are swept up."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from pathlib import Path

from cluster.binaries import home
from cluster.processes import began, stop_all

_counter = itertools.count()


def new_folder() -> Path:
    """A folder for a control plane of this process."""
    sweep()
    return _sessions() / name(os.getpid()) / str(next(_counter))


def name(pid: int) -> str:
    """Of a living process; a later process that is given the same pid is named otherwise."""
    return f"{pid}-{began(pid)}"


def sweep() -> None:
    """End what processes left behind that are gone; one process sweeps at a time."""
    _sessions().mkdir(parents=True, exist_ok=True)
    with (_sessions() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for session in _sessions().glob("[0-9]*"):
            if _lives(session):
                continue
            for folder in session.iterdir():
                stop_all(folder)
            shutil.rmtree(session)


def _lives(session: Path) -> bool:
    pid = int(session.name.partition("-")[0])
    try:
        return session.name == name(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _sessions() -> Path:
    return home() / "sessions"
