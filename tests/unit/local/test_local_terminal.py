"""`rlhf run` on a real terminal: a pty, keys and all."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import typer

from fakes.local_job import FAKE, SIDE_BY_SIDE, job, work
from rlhf_sdk.commands.run import execute
from rlhf_sdk.output import Format


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, path: Path, orders: dict[str, object], columns: int) -> None:
        script = path.parent / "orders.json"
        script.write_text(json.dumps(orders))
        self.text = ""
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            code = 99
            try:
                ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
                os.environ["TERM"] = "xterm-256color"
                sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
                command = (sys.executable, "-S", "-E", str(FAKE), str(script))
                execute(path, None, [], 2, fresh=False, plain=False, output=Format.TEXT, command=command)
            except typer.Exit as end:
                code = end.exit_code
            finally:
                sys.stdout.flush()
                os._exit(code)

    def read_until(self, pattern: str, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, self.text
            self._read(0.05)

    def press(self, key: bytes) -> None:
        os.write(self._handle, key)

    def end(self) -> int:
        while self._read(20.0):
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self._handle)
        return os.waitstatus_to_exitcode(status)

    def echoes_control_keys(self) -> bool:
        return bool(termios.tcgetattr(self._handle)[3] & termios.ECHOCTL)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._handle], [], [], seconds)[0]:
            return False
        try:
            content = os.read(self._handle, 65536)
        except OSError:  # Linux: the other end has closed
            return False
        self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", content.decode(errors="replace"))
        return bool(content)


def test_side_by_side_bars_then_ctrl_c_stops_with_checkpoints(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    slow = {"steps": 500, "pace": 0.05, "serve": True}
    terminal = Terminal(path, {"reward": slow, "cost": slow}, 80)
    terminal.read_until(r"▸  reward  ━.*/500 eta \d:\d\d loss .*\s+▸  cost    ━.*/500 eta")
    assert not terminal.echoes_control_keys(), "^C must not shift the picture"
    terminal.press(b"\x03")
    assert terminal.end() == 130
    assert "stopping: stages save their checkpoints" in terminal.text
    assert "goes on from the checkpoints" in terminal.text
    assert (work(path) / "cost/checkpoints/fake").exists()


def test_a_run_that_ends_leaves_its_last_picture_and_the_reports_path(tmp_path: Path) -> None:
    path = job(tmp_path)
    terminal = Terminal(path, {}, 200)
    assert terminal.end() == 0
    last = terminal.text[terminal.text.rindex("beaver  3/3 stages") :]
    assert re.search(r"✓  prepare done in .*\s+✓  sft     done in .*\s+✓  report  done in", last)
    assert "beaver: done" in last
    assert "report.html" in last
