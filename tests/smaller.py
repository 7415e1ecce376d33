"""Examples in sizes that a test can wait for."""

from __future__ import annotations

from typing import Any

SIZES = {
    "steps": 2,
    "prompts": 4,
    "maxNewTokens": 6,
    "maxAnswerTokens": 6,
    "trainableLayers": 1,
    "batchSize": 4,
    "resamples": 100,
    "snapshotEvery": 1,
}


def smaller(value: Any) -> Any:
    """A job, or a part of one, with these sizes and two steps a stage."""
    if isinstance(value, list):
        return [smaller(item) for item in value]
    if isinstance(value, dict):
        reduced = {
            key: SIZES[key] if key in SIZES and isinstance(item, int) else smaller(item) for key, item in value.items()
        }
        if "epochs" in reduced or ("batchSize" in reduced and "coefficient" not in reduced):
            reduced["maxSteps"] = 2
        return reduced
    return value
