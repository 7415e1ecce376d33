"""The state of every random number generator of a rank, as plain values and tensors (never pickles)."""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any

import numpy as np


def rank_seed(seed: int, rank: int) -> int:
    """The seed of a rank's generators: the stage's own on rank 0, and far from every other stage's on the others."""
    if rank == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{rank}".encode()).digest()[:4], "little")


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and, where this rank has imported it, torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's generators; loads with `torch.load(weights_only=True)`."""
    import torch

    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "numbers": list(numbers), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64).copy()),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],  # this rank's GPU alone
    }


def restore(state: dict[str, Any]) -> None:
    """Set every generator to a captured state."""
    import torch

    python = state["python"]
    random.setstate((python["version"], tuple(python["numbers"]), python["gauss"]))
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
