"""What /progress answers."""

from __future__ import annotations

from rlhf_trainer.telemetry.progress import WINDOW, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_before_anything_runs_nothing_is_claimed():
    answer = Progress({"stage": "sft", "type": "sft", "attempt": 1}).snapshot()
    assert answer == {
        "stage": "sft",
        "type": "sft",
        "attempt": 1,
        "phase": "starting",
        "phaseShare": None,
        "step": 0,
        "begun": None,
        "total": 0,
        "unit": "steps",
        "tokensPerSecond": None,
        "etaSeconds": None,
        "headline": {},
    }


def test_eta_and_rate_follow_the_steps_seen():
    clock = Clock()
    progress = Progress(clock=clock)
    progress.start(10, done=4)
    clock.now += 2.0
    progress.advance(5, {"loss": 0.5}, tokens=50)
    clock.now += 2.0
    progress.advance(6, {"loss": 0.4}, tokens=70)
    answer = progress.snapshot()
    assert (answer["begun"], answer["step"], answer["total"], answer["headline"]) == (4, 6, 10, {"loss": 0.4})
    assert answer["etaSeconds"] == 8.0
    assert answer["tokensPerSecond"] == 30.0


def test_steps_made_before_a_resume_do_not_count_as_speed():
    clock = Clock()
    progress = Progress(clock=clock)
    progress.start(1000, done=900)
    assert progress.snapshot()["etaSeconds"] is None
    clock.now += 10.0
    progress.advance(901)
    assert progress.snapshot()["etaSeconds"] == 990.0


def test_the_rate_forgets_what_is_long_past():
    clock = Clock()
    progress = Progress(clock=clock)
    progress.start(1000)
    for step in range(1, 11):
        clock.now += 60.0
        progress.advance(step)
    for step in range(11, 11 + WINDOW):
        clock.now += 1.0
        progress.advance(step)
    assert progress.snapshot()["etaSeconds"] == 1000 - 10 - WINDOW


def test_at_the_end_nothing_is_left():
    progress = Progress()
    progress.start(2)
    progress.advance(2)
    assert progress.snapshot()["etaSeconds"] == 0.0
