"""Whether there is a GPU here, asked without CUDA, which a launcher must not initialise."""

from __future__ import annotations

import os
from pathlib import Path


def has_gpu(folder: Path = Path("/dev")) -> bool:
    """Whether this machine, or pod, has an NVIDIA GPU that CUDA_VISIBLE_DEVICES does not hide; `folder` is where devices lie."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(folder.glob("nvidia[0-9]*"))
