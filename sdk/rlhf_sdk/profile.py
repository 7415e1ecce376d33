"""Where a run's time went: phases by stage, from the products' `timings.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, read_object


@dataclass(frozen=True)
class Spent:
    """One stage."""

    stage: str
    seconds: float
    """Inside its steps; start-up and saving are outside."""
    steps: int
    phases: Mapping[str, float]
    """Seconds by phase, the longest first."""
    tokens: Mapping[str, int]
    """Tokens by phase."""
    peak: int | None
    """Most memory of rank 0, bytes."""

    def rate(self, phase: str) -> float | None:
        """Tokens a second of a phase."""
        seconds, tokens = self.phases.get(phase, 0.0), self.tokens.get(phase, 0)
        return tokens / seconds if seconds > 0 and tokens else None


def read(stage: str, product: Path) -> Spent | None:
    """What a product says of its making; None: nothing, or nothing that can be read."""
    try:
        raw = read_object(product / "timings.json")
        phases = dict(sorted(raw["phases"].items(), key=lambda item: -float(item[1])))
        return Spent(
            stage, float(raw["seconds"]), int(raw["steps"]), phases, dict(raw["tokens"]), raw.get("peakRssBytes")
        )
    except (FileNotFoundError, Unreadable, AttributeError, KeyError, TypeError, ValueError):
        return None


def as_json(spent: Spent) -> dict[str, Any]:
    """For scripts."""
    return {
        "seconds": round(spent.seconds, 3),
        "steps": spent.steps,
        "peakBytes": spent.peak,
        "phases": {
            name: {"seconds": round(seconds, 3), "tokensPerSecond": spent.rate(name)}
            for name, seconds in spent.phases.items()
        },
    }
