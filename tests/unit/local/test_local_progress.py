"""Progress: asked of the stage, or read from its metrics."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_sdk.local import progress
from rlhf_sdk.local.progress import Progress
from rlhf_sdk.local.view import PlainView


def test_the_last_whole_line_of_the_metrics_is_what_is_known_of_a_stage_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 2.5, "step": 1}\n{"loss": 1.5, "lr": 0.1, "step": 2}\n{"loss": 0.5, "st')
    assert progress.read(tmp_path) == Progress(step=2, headline={"loss": 1.5})


@pytest.mark.parametrize("content", ["", "half a line", "{}\n", "[1]\n", "nonsense\n"])
def test_metrics_that_say_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    assert progress.read(tmp_path) is None


def test_a_long_file_is_read_at_its_end(tmp_path: Path) -> None:
    rows = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 20000)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert progress.read(tmp_path) == Progress(step=19999, headline={"loss": 1 / 19999})


def test_the_most_telling_metrics_come_first() -> None:
    shown = progress.from_json({"headline": {"kl": 1.0, "cost.harm": 2.0, "loss": 3.0, "own": 4.0, "reward": 5.0}})
    assert list(shown.headline) == ["reward", "cost.harm", "kl", "loss", "own"]


def test_a_part_is_left_out_where_the_whole_is_there() -> None:
    shown = progress.from_json({"headline": {"reward": 1.0, "reward.rm": 1.0, "cost.harm": 2.0}})
    assert list(shown.headline) == ["reward", "cost.harm"]


def test_odd_values_are_left_out() -> None:
    raw = {"step": "3", "total": None, "etaSeconds": float("nan"), "headline": {"loss": None, "reward": "x", "kl": 1}}
    assert progress.from_json(raw) == Progress(headline={"kl": 1.0})


@pytest.mark.parametrize("answer", [b'{"step": 3, "total": 10, "etaSeconds": 2.5}', b"no json", b"[]"])
def test_a_running_stage_is_asked(tmp_path: Path, answer: bytes) -> None:
    class Stage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/progress"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with HTTPServer(("127.0.0.1", 0), Stage) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        (tmp_path / "endpoint.json").write_text(json.dumps({"host": "127.0.0.1", "port": server.server_port}))
        shown = progress.read(tmp_path, timeout=60)
    assert shown == (Progress(step=3, total=10, eta=2.5) if answer.startswith(b"{") else Progress(step=1))


def test_a_stage_that_does_not_answer_is_read(tmp_path: Path) -> None:
    (tmp_path / "endpoint.json").write_text('{"host": "127.0.0.1", "port": 1}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n')
    assert progress.read(tmp_path) == Progress(step=4)


def test_metrics_of_an_earlier_attempt_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n')
    written = path.stat().st_mtime
    assert progress.read(tmp_path, since=written - 1) == Progress(step=4)
    assert progress.read(tmp_path, since=written + 1) is None


def test_a_launcher_that_waits_for_another_run_says_so(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a1" / "launcher.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "2026-01-01 00:00:00,000 INFO launcher: waiting: stage sft of job beaver on host is making sft-0a now; it ...\n"
    )
    assert progress.read(tmp_path, since=1.0) == Progress(activity="waiting: stage sft of job beaver on host")


def test_a_long_first_step_shows_that_something_is_done() -> None:
    stream = io.StringIO()
    view = PlainView(stream, every=0.0)
    state: Any = SimpleNamespace(stages={"rules": SimpleNamespace(running=True)})
    for step in (0, 0, 1):
        view.progress(state, {"rules": Progress(step=step, total=44, activity="evaluating")})
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert lines == ["rules: evaluating, step 0/44", "rules: step 1/44"]


def test_a_long_step_shows_its_phase_and_how_much_of_it_is_done() -> None:
    stream = io.StringIO()
    view = PlainView(stream, every=0.0)
    state: Any = SimpleNamespace(stages={"ppo": SimpleNamespace(running=True)})
    for phase, share in (("training", None), ("generate", 0.4), ("update", None)):
        view.progress(state, {"ppo": progress.from_json({"step": 3, "total": 8, "phase": phase, "phaseShare": share})})
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert lines == ["ppo: step 3/8", "ppo: step 3/8, generate 40 %", "ppo: step 3/8, update"]


def test_what_is_counted_and_is_no_step_is_called_what_it_is() -> None:
    stream = io.StringIO()
    view = PlainView(stream, every=0.0)
    state: Any = SimpleNamespace(stages={"sft": SimpleNamespace(running=True)})
    for done in (0, 0, 3, 3):
        shown = progress.from_json({"step": done, "total": 11, "unit": "batches", "phase": "frozen layers"})
        view.progress(state, {"sft": shown})
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [f"sft: frozen layers, {done}/11 batches" for done in (0, 3, 3)]
