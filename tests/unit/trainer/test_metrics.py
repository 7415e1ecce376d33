"""metrics.jsonl: exact, sorted, without a clock, and the same bytes after a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.exits import GuardTripped
from rlhf_trainer.telemetry.metrics import Metrics, line
from rlhf_trainer.telemetry.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class OneElement:
    """Like a tensor of one element: its value costs something, so it must not be taken early."""

    def __init__(self, value: float) -> None:
        self.value, self.taken = value, 0

    def __float__(self) -> float:
        self.taken += 1
        return self.value


class Taker:
    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.phases: list[tuple[str, float, int]] = []
        self.closed = False

    def step(self, step, values) -> None:
        self.steps.append((step, dict(values)))

    def phase(self, name, seconds, tokens) -> None:
        self.phases.append((name, seconds, tokens))

    def close(self) -> None:
        self.closed = True


def rows(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_a_line_has_sorted_keys_and_no_clock(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.log(1, {"loss": 0.1, "accuracy": 1})
    metrics.flush()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"accuracy":1.0,"loss":0.1,"step":1}\n'


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_as_the_same_bits(value):
    back = json.loads(line(1, {"x": value}))["x"]
    assert (back, math.copysign(1, back)) == (value, math.copysign(1, value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_defined_is_null(value):
    assert json.loads(line(3, {"explained_variance": value})) == {"explained_variance": None, "step": 3}


def test_values_are_converted_once_and_not_before_a_flush(tmp_path):
    clock = Clock()
    metrics = Metrics(tmp_path, clock=clock)
    value = OneElement(2.5)
    metrics.log(1, {"kl": value})
    assert value.taken == 0
    metrics.flush()
    metrics.flush()
    assert value.taken == 1
    assert metrics.latest == {"kl": 2.5}


def test_lines_are_written_at_least_once_a_second(tmp_path):
    clock = Clock()
    metrics = Metrics(tmp_path, clock=clock)
    metrics.log(1, {"kl": 1.0})
    assert not metrics.path.exists()
    clock.now = 1.5
    metrics.log(2, {"kl": 1.0})
    assert [row["step"] for row in rows(metrics.path)] == [1, 2]


def test_only_rank_0_writes(tmp_path):
    metrics = Metrics(tmp_path, rank=1)
    metrics.log(1, {"loss": 1.0})
    metrics.flush(sync=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["loss", "policy_loss", "grad_norm", "lambda.harm"])
def test_nan_in_a_value_that_must_be_finite_ends_the_stage_and_is_not_written(tmp_path, name):
    metrics = Metrics(tmp_path, clock=Clock())
    metrics.log(1, {name: 1.0})
    metrics.log(2, {name: math.nan})
    metrics.log(3, {name: 1.0})
    with pytest.raises(GuardTripped, match=f"{name} is nan at step 2") as caught:
        metrics.flush()
    assert (caught.value.code, caught.value.reason) == (3, "NaN")
    assert [row["step"] for row in rows(metrics.path)] == [1]


def test_rewind_drops_later_steps_and_torn_lines(tmp_path):
    metrics = Metrics(tmp_path)
    for step in range(1, 6):
        metrics.log(step, {"loss": step / 3})
    metrics.flush()
    written = metrics.path.read_bytes()
    with metrics.path.open("ab") as file:
        file.write(b'{"loss": 0.3')
    metrics.rewind(3)
    assert metrics.path.read_bytes() == b"".join(written.splitlines(keepends=True)[:3])


def test_a_run_that_is_rewound_and_goes_on_writes_the_bytes_of_an_undisturbed_one(tmp_path):
    def log(metrics: Metrics, steps: range) -> None:
        for step in steps:
            metrics.log(step, {"loss": 1 / step, "kl": step * 0.1})
        metrics.flush()

    undisturbed, resumed = Metrics(tmp_path / "a"), Metrics(tmp_path / "b")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    log(undisturbed, range(1, 11))
    log(resumed, range(1, 8))
    again = Metrics(tmp_path / "b")
    again.rewind(4)
    log(again, range(5, 11))
    assert again.path.read_bytes() == undisturbed.path.read_bytes()


def test_timings_have_each_steps_phases_and_tokens(tmp_path):
    clock = Clock()
    metrics = Metrics(tmp_path, attempt=2, clock=clock)
    with metrics.phase("generate") as phase:
        clock.now = 3.0
        phase.tokens += 60
    with metrics.phase("update", tokens=40):
        clock.now = 4.0
    clock.now = 5.0
    metrics.log(1, {"kl": 0.0})
    metrics.flush()
    (row,) = rows(tmp_path / "timings.jsonl")
    assert row.pop("peakRssBytes") > 1e6
    assert row == {
        "step": 1,
        "attempt": 2,
        "seconds": 5.0,
        "phases": {"generate": 3.0, "update": 1.0},
        "tokens": {"generate": 60, "update": 40},
        "tokensPerSecond": 20.0,
    }
    assert metrics.tokens == 100


def test_timings_of_a_lost_attempt_stay_but_for_a_torn_line(tmp_path):
    (tmp_path / "timings.jsonl").write_text('{"step":1}\n{"step":2}\n{"ste')
    Metrics(tmp_path).rewind(0)
    assert (tmp_path / "timings.jsonl").read_text() == '{"step":1}\n{"step":2}\n'


def test_sinks_get_numbers_and_phases_and_are_closed(tmp_path):
    taker = Taker()
    metrics = Metrics(tmp_path, sinks=(taker,))
    with metrics.phase("score", tokens=7):
        pass
    metrics.log(1, {"reward": OneElement(1.5)})
    metrics.close()
    assert taker.steps == [(1, {"reward": 1.5})]
    assert [(name, tokens) for name, _, tokens in taker.phases] == [("score", 7)]
    assert taker.closed


def test_progress_is_shown_the_phase_its_share_and_then_what_was_done_before(tmp_path):
    progress = Progress()
    progress.start(3, phase="training")
    metrics = Metrics(tmp_path, say=progress.say)

    def shown():
        answer = progress.snapshot()
        return answer["phase"], answer["phaseShare"]

    with metrics.phase("update") as phase:
        assert shown() == ("update", None)
        snapshots = [shown() for _ in phase.each([1, 2, 3, 4])]
        assert snapshots == [("update", None), *(("update", share) for share in (0.25, 0.5, 0.75))]
        assert shown() == ("update", 1.0)
        with metrics.phase("sync"):
            assert shown() == ("sync", None)
        assert shown() == ("update", None)
    assert shown() == ("training", None)
