"""Which rank a process is, and where a rank's files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RankEnv:
    """Which rank this process is."""

    rank: int
    world: int
    local_rank: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> RankEnv:
        """Read RANK, WORLD_SIZE and LOCAL_RANK."""
        return cls(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def result_path(work: Path, attempt: int, rank: int) -> Path:
    """Where a rank says how it ended."""
    return work / "ranks" / f"a{attempt}" / f"rank{rank}.json"


def log_path(work: Path, attempt: int, rank: int) -> Path:
    """A rank's log."""
    return work / "logs" / f"a{attempt}" / f"rank{rank}.log"
