"""The request to stop a stage."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from rlhf_trainer.stopping import StopRequest

STORM = """\
import signal
from rlhf_trainer.stopping import StopRequest
asked, came = StopRequest(), 0
def handler(*_):
    global came
    came += 1
    asked.set()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
while came < 2000:
    asked.wait(0.001)
signal.setitimer(signal.ITIMER_REAL, 0)
print("whole")
"""


def test_no_signal_comes_at_a_wrong_moment() -> None:
    path = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    ended = subprocess.run(
        [sys.executable, "-c", STORM], env=path, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.stdout == "whole\n", ended.stderr


def test_it_is_waited_for_and_seen_by_every_thread() -> None:
    stop_request, answers = StopRequest(), []
    threads = [threading.Thread(target=lambda: answers.append(stop_request.wait(600))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not stop_request.wait(0)
    assert not stop_request.is_set()
    stop_request.set()
    for thread in threads:
        thread.join(120)
    assert answers == [True] * 3


def test_a_wait_ends_when_its_time_is_over() -> None:
    began = time.monotonic()
    assert not StopRequest().wait(0.25)
    assert time.monotonic() - began >= 0.25
