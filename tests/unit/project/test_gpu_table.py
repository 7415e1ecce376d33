"""The GPU script's table: what it computes and how it is written; and that its jobs are valid."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[3] / "benchmarks" / "gpu"
sys.path.insert(0, str(GPU))
from table import Row, as_json, forward_flops, markdown, memory_row, peak_flops, phase_rows  # noqa: E402

CONFIG = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "vocab_size": 10,
}


def timing(seconds: float, tokens: int, **more: int) -> dict[str, object]:
    return {"phases": {"update": seconds, "sync": 0.1}, "tokens": {"update": tokens}, **more}


def test_devices_are_told_by_their_names() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert peak_flops("Tesla T4", "bfloat16") is None
    assert peak_flops("AVX2", "bfloat16") is None


def test_a_forward_counts_every_product_twice_and_half_of_the_attention() -> None:
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
    assert forward_flops(CONFIG, 0) == 2 * (3 * layer + 8 * 10)
    assert forward_flops(CONFIG, 5) - forward_flops(CONFIG, 0) == 2 * 3 * 8 * 5


def test_utilisation_leaves_the_first_step_out_and_counts_a_backward_as_two_forwards() -> None:
    timings = [timing(60.0, 100), timing(1.0, 100), timing(2.0, 100), timing(3.0, 100)]
    (row,) = phase_rows("sft", "sft", timings, forward=1e3, peak=1e6)
    assert row.check == "phase update" and row.numbers["tokens/s"] == 50
    assert row.numbers["MFU"] == pytest.approx(3 * 1e3 * 50 / 1e6)
    (unknown,) = phase_rows("ppo", "ppo", timings, forward=1e3, peak=1e6)  # several models: no one number of passes
    assert "MFU" not in unknown.numbers


def test_the_estimate_stands_beside_the_peak() -> None:
    row = memory_row("sft", 2**31, [timing(1, 1, peakDeviceBytes=2**30)])
    assert row.numbers == {"estimate GiB": 2.0, "peak GiB": 1.0, "estimate/peak": 2.0}
    assert memory_row("sft", 2**31, [timing(1, 1)]).outcome == "skipped"


def test_the_table_keeps_its_columns_whatever_an_error_says() -> None:
    rows = [
        Row("ppo", "all", "no", "RuntimeError: a | b\nsecond line"),
        Row("sft", "x", "measured", "", {"s": 12345.6}),
    ]
    lines = markdown(rows, {"processor": "none"}).splitlines()
    cells = [line.count("|") for line in lines if line.startswith("|")]
    assert set(cells) == {6} and "12,346" in lines[-1]
    assert json.loads(as_json(rows, {}))["rows"][0]["outcome"] == "no"
