"""What all ranks of a stage do together: small collectives on the CPU, and nothing at all when there is one rank.

torch is imported by who has begun a process group, never here: `prepare` and the report are alone and do without it.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

T = TypeVar("T")


def size() -> int:
    """Number of ranks."""
    dist = sys.modules.get("torch.distributed")
    return int(dist.get_world_size()) if dist is not None and dist.is_initialized() else 1


def barrier() -> None:
    """Wait for every rank (on the CPU: no device is synchronised)."""
    any_rank(False)


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether any rank raised it. One small all-reduce; every rank gets the same answer."""
    if size() == 1:
        return flags
    import torch
    import torch.distributed as dist

    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes.tolist())


def broadcast(value: T) -> T:
    """Rank 0's value, on every rank."""
    if size() == 1:
        return value
    import torch
    import torch.distributed as dist

    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]  # type: ignore[no-any-return]  # the box is untyped on its way through


def gather(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if size() == 1:
        return [value]
    import torch.distributed as dist

    box: list[Any] = [None] * size()
    dist.all_gather_object(box, value)
    return box
