"""What the GPU script found, as one table: pure functions, held by tests/unit/project/test_gpu_table.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PEAKS = (
    ("H200", 989e12, 67e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("L4", 121e12, 30.3e12),
    ("A10", 125e12, 31.2e12),
    ("V100", 0.0, 15.7e12),
    ("T4", 0.0, 8.1e12),
)
"""(part of the device's name, dense bfloat16 FLOP/s, float32 FLOP/s without TF32), from the makers' data sheets. The
first that fits counts; 0: the device has no such units."""

FORWARDS = {("sft", "update"): 3, ("rewardModel", "update"): 3, ("costModel", "update"): 3, ("ppo", "generate"): 1}
"""Forwards' worth of arithmetic a token: a backward is two. Phases of several models are left out."""

Outcome = Literal["yes", "no", "skipped", "measured"]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    part: str
    check: str
    outcome: Outcome
    """`yes` and `no` of a check, `measured` of a number; `skipped`: not tried, `note` says why."""
    note: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def peak_flops(device: str, dtype: str) -> float | None:
    """Dense FLOP/s of a device for a type of weights; None: the device is not in the list."""
    for name, half, single in PEAKS:
        if name in device:
            return (half if dtype == "bfloat16" else single) or None
    return None


def forward_flops(config: Mapping[str, Any], length: float) -> float:
    """FLOP of a causal forward, a token.

    Args:
        config: of a Llama: its config.json.
        length: mean tokens of a row: each token attends to half of them.
    """
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    query, key = heads * size, config["num_key_value_heads"] * size
    layer = 2 * hidden * query + 2 * hidden * key + 3 * hidden * config["intermediate_size"]
    head = hidden * config["vocab_size"]
    return float(2 * (config["num_hidden_layers"] * layer + head) + 2 * config["num_hidden_layers"] * query * length)


def steady(timings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """(median seconds, median tokens) of each phase a step, the first step left out: it warms up."""
    rows = timings[1:] or timings
    names = {name for row in rows for name in row["phases"]}
    return {
        name: (
            statistics.median(row["phases"].get(name, 0.0) for row in rows),
            statistics.median(row["tokens"].get(name, 0) for row in rows),
        )
        for name in sorted(names)
    }


def phase_rows(
    part: str,
    kind: str,
    timings: Sequence[Mapping[str, Any]],
    *,
    forward: float,
    peak: float | None,
) -> list[Row]:
    """Tokens a second and model FLOPs utilisation (MFU) of a stage's phases.

    Args:
        part: name of the stage.
        kind: its type.
        timings: lines of its timings.jsonl.
        forward: FLOP a token (`forward_flops`).
        peak: FLOP/s of the device; None: not known, no utilisation.
    """
    rows = []
    for name, (seconds, tokens) in steady(timings).items():
        if not tokens or not seconds:
            continue
        numbers = {"seconds": seconds, "tokens": tokens, "tokens/s": tokens / seconds}
        passes = FORWARDS.get((kind, name))
        if passes is not None and peak:
            numbers["MFU"] = passes * forward * tokens / seconds / peak
        rows.append(Row(part, f"phase {name}", "measured", numbers=numbers))
    return rows


def memory_row(part: str, estimated: int | None, timings: Sequence[Mapping[str, Any]]) -> Row:
    """The estimate of a stage's device memory beside what torch had allocated at its peak."""
    peak = max((row.get("peakDeviceBytes") or 0 for row in timings), default=0)
    if not peak or estimated is None:
        return Row(part, "memory", "skipped", "no device memory was allocated" if not peak else "no estimate")
    numbers = {"estimate GiB": estimated / 2**30, "peak GiB": peak / 2**30, "estimate/peak": estimated / peak}
    return Row(part, "memory", "measured", numbers=numbers)


def markdown(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
    """The table, after what it was measured on."""
    lines = ["# On a GPU", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    lines += ["| part | check | outcome | numbers | note |", "|---|---|---|---|---|"]
    for row in rows:
        numbers = ", ".join(f"{name} {_short(value)}" for name, value in row.numbers.items())
        lines.append(f"| {_cell(row.part)} | {_cell(row.check)} | {row.outcome} | {numbers} | {_cell(row.note)} |")
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
    """The same for programs."""
    return json.dumps({"machine": dict(machine), "rows": [asdict(row) for row in rows]}, indent=1) + "\n"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
