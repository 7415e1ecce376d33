"""Where a stage's time went: `timings.jsonl`, a line a step, summed up into the product's `timings.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError


class _Row(BaseModel):
    """A line."""

    seconds: float
    phases: dict[str, float]
    tokens: dict[str, int]
    attempt: int
    peakRssBytes: int | None = None
    peakDeviceBytes: int | None = None


def summarise(path: Path, problems: list[str] | None = None) -> dict[str, Any] | None:
    """Sum a `timings.jsonl` up; None where there is none or it has no whole line.

    A step computed twice (by an attempt that was lost and by the one that resumed) counts twice: the time was spent.

    Lines that are none of ours are left out, and named in `problems`.

    Returns:
        {"steps", "seconds", "phases": {name: seconds}, "tokens": {phase: count}, "attempts", "peakRssBytes"}, on a
        GPU also "peakDeviceBytes"; what no phase claims of `seconds` is the phase "other".
    """
    if not path.exists():
        return None
    steps = 0
    seconds = 0.0
    phases: dict[str, float] = {}
    tokens: dict[str, int] = {}
    attempts: set[int] = set()
    peak = device_peak = damaged = 0
    for raw in path.read_bytes().splitlines(keepends=True):
        if not raw.endswith(b"\n"):
            break  # a line torn by a kill: the rest was never written
        row = _row(raw)
        if row is None:
            damaged += 1
            continue
        steps += 1
        seconds += row.seconds
        for name, spent in row.phases.items():
            phases[name] = phases.get(name, 0.0) + spent
        for name, count in row.tokens.items():
            tokens[name] = tokens.get(name, 0) + count
        attempts.add(row.attempt)
        peak = max(peak, row.peakRssBytes or 0)
        device_peak = max(device_peak, row.peakDeviceBytes or 0)
    if damaged and problems is not None:
        problems.append(f"{path.parent.name}/{path.name}: {damaged} lines are no timings: left out")
    if not steps:
        return None
    unclaimed = seconds - sum(phases.values())
    if unclaimed > 0.005 * seconds:
        phases["other"] = unclaimed
    return {
        "steps": steps,
        "seconds": seconds,
        "phases": phases,
        "tokens": tokens,
        "attempts": len(attempts),
        "peakRssBytes": peak or None,
        **({"peakDeviceBytes": device_peak} if device_peak else {}),
    }


def _row(raw: bytes) -> _Row | None:
    try:
        return _Row.model_validate_json(raw)
    except ValidationError:
        return None
