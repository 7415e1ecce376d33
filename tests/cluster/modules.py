"""Files of the Go modules that the programs are built from: CRDs and charts come with them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from cluster.binaries import HERE, Missing


def folder_of(pinned: str, module: str) -> Path:
    """The folder of a module's files, fetched where it is not there yet.

    Args:
        pinned: the folder below go/ whose go.mod says which version.
        module: its path.

    Raises:
        Missing: Go cannot fetch it.
    """
    command = ["go", "mod", "download", "-json", module]
    ended = subprocess.run(command, cwd=HERE / "go" / pinned, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Missing(f"{module}: {ended.stdout}{ended.stderr}")
    return Path(json.loads(ended.stdout)["Dir"])
