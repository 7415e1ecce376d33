"""Control planes of test processes: each in a folder named for its process, so that a killed one's are swept up."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

from cluster.binaries import home
from cluster.processes import stop_all

_counter = itertools.count()


def new_folder() -> Path:
    """A folder for a control plane of this process."""
    sweep()
    return home() / "sessions" / str(os.getpid()) / str(next(_counter))


def sweep() -> None:
    """End what processes left behind that are gone."""
    for session in (home() / "sessions").glob("[0-9]*"):
        if Path(f"/proc/{session.name}").exists():
            continue
        for folder in session.iterdir():
            stop_all(folder)
        subprocess.run(["rm", "-rf", str(session)], check=True)
