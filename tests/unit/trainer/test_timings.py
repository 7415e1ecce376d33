"""Where the time went, summed up from a line a step."""

import json

import pytest

from rlhf_sdk.profile import read
from rlhf_trainer.telemetry.timings import summarise


def row(step, seconds, attempt=0, **phases):
    tokens = dict.fromkeys(phases, 10)
    return json.dumps(
        {"step": step, "attempt": attempt, "seconds": seconds, "phases": phases, "tokens": tokens, "peakRssBytes": step}
    )


def test_phases_and_tokens_add_up_and_the_rest_is_other(tmp_path):
    path = tmp_path / "timings.jsonl"
    lines = [row(1, 2.0, generate=1.0, update=0.5), row(2, 3.0, generate=2.0), row(2, 3.0, attempt=1, generate=1.5)]
    path.write_text("\n".join(lines) + "\n" + '{"step": 3, "sec')
    timings = summarise(path)
    assert timings["phases"] == pytest.approx({"generate": 4.5, "update": 0.5, "other": 3.0})
    assert timings["seconds"] == 8.0 and timings["steps"] == 3 and timings["attempts"] == 2
    assert timings["tokens"] == {"generate": 30, "update": 10} and timings["peakRssBytes"] == 2


def test_the_peak_of_a_gpu_is_the_largest_of_its_steps_and_absent_without_one(tmp_path):
    path = tmp_path / "timings.jsonl"
    lines = [{**json.loads(row(1, 1.0)), "peakDeviceBytes": 7}, {**json.loads(row(2, 1.0)), "peakDeviceBytes": 9}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert summarise(path)["peakDeviceBytes"] == 9
    path.write_text(row(1, 1.0) + "\n")
    assert "peakDeviceBytes" not in summarise(path)


def test_nothing_measured_is_none(tmp_path):
    assert summarise(tmp_path / "timings.jsonl") is None
    (tmp_path / "timings.jsonl").write_text("")
    assert summarise(tmp_path / "timings.jsonl") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"phases": [], "seconds": 1, "steps": 1, "tokens": {}}',
        '{"phases": {"a": null}}',
        "[" * 200_000,
    ],
)
def test_a_damaged_file_of_a_product_shows_no_profile(tmp_path, content):
    (tmp_path / "timings.json").write_text(content)
    assert read("sft", tmp_path) is None
