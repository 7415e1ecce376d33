"""Jobs and runs for tests of the local runner: real commands and processes, the FAKE stage in place of the trainer."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from rlhf_sdk.commands.run import execute
from rlhf_sdk.exits import CommandError
from rlhf_sdk.local import live, runner
from rlhf_sdk.output import Format

FAKE = Path(__file__).with_name("fake_stage.py")

INPUTS = """
  - {name: base, source: ../inputs/base}
  - {name: chat, source: ../inputs/chat.jsonl}
  - {name: prefs, source: ../inputs/prefs.jsonl}"""
CHAIN = """
  - {name: sft, sft: {model: {input: base}, data: [{input: chat}]}}"""
SIDE_BY_SIDE = (
    CHAIN
    + """
  - {name: reward, rewardModel: {model: {stage: sft}, data: [{input: prefs}]}}
  - {name: cost, costModel: {model: {stage: sft}, data: [{input: prefs}]}}"""
)


def job(folder: Path, stages: str = CHAIN, *, name: str = "beaver", more: str = "") -> Path:
    """Write a job file; its inputs are empty files, which is all that the fake stage needs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "inputs").mkdir(exist_ok=True)
    for source in ("base", "chat.jsonl", "prefs.jsonl"):
        (folder.parent / "inputs" / source).touch()
    path = folder / "job.yaml"
    path.write_text(
        f"apiVersion: rlhf.dev/v1alpha1\nkind: RLHFJob\nmetadata: {{name: {name}}}\nspec:\n{more}"
        f"  inputs:{INPUTS}\n  stages:{stages}\n"
    )
    return path


_ = (live, runner)  # imported before the fork, by all runs at once


@dataclass
class Ran:
    """How a run ended."""

    code: int
    result: dict[str, Any]
    said: str

    def phases(self) -> dict[str, str]:
        return {name: stage["phase"] for name, stage in self.result["stages"].items()}


class Process:
    """`rlhf run` in a process of its own: forked, so that nothing is imported again."""

    def __init__(self, path: Path, script: Path, cores: int, *, fresh: bool, ignore: int | None) -> None:
        self._out, self._err = script.with_suffix(".out"), script.with_suffix(".err")
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 99
        try:
            os.dup2(os.open(self._out, os.O_WRONLY | os.O_CREAT), 1)
            os.dup2(os.open(self._err, os.O_WRONLY | os.O_CREAT), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.environ["HF_TOKEN"] = "secret"
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # under nohup or `&` one is ignored already
                signal.signal(number, signal.SIG_IGN if number == ignore else signal.SIG_DFL)
            code = _execute(path, script, cores, fresh=fresh)
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = 300.0) -> bool:
        """Whether it ended in time."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for something it does."""
        end = time.monotonic() + seconds
        while not condition():
            if self.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"it did not happen: {self._err.read_text()}")
            time.sleep(0.005)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def end(self) -> Ran:
        if not self.wait():
            self.kill()
            raise AssertionError(f"it did not end: {self._err.read_text()}")
        out = self._out.read_text()
        assert self.code is not None
        return Ran(self.code, json.loads(out) if out.strip() else {}, self._err.read_text())


def _execute(path: Path, script: Path, cores: int, *, fresh: bool) -> int:
    command = (sys.executable, "-S", "-E", str(FAKE), str(script))
    try:
        execute(
            path, None, [], cores, fresh=fresh, plain=True, output=Format.JSON, command=command, wait=lambda _: 0.01
        )
    except typer.Exit as end:
        return end.exit_code
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.code)
    return 98


def start(
    path: Path, orders: dict[str, Any], *, cores: int = 2, fresh: bool = False, ignore: int | None = None
) -> Process:
    """Begin `rlhf run` with these orders to the fake stages, one signal ignored from the start."""
    script = path.parent / f"orders-{os.urandom(4).hex()}.json"
    script.write_text(json.dumps(orders))
    return Process(path, script, cores, fresh=fresh, ignore=ignore)


def run(path: Path, orders: dict[str, Any] | None = None, *, cores: int = 2, fresh: bool = False) -> Ran:
    """`rlhf run`, to its end."""
    return start(path, orders or {}, cores=cores, fresh=fresh).end()


def work(path: Path) -> Path:
    """The run's work folder."""
    return next((path.parent / ".rlhf" / "work").iterdir())


def started(path: Path, stage: str) -> bool:
    """Whether the stage's process is up."""
    return any((path.parent / ".rlhf" / "work").glob("*")) and bool(starts(path, stage))


def starts(path: Path, stage: str) -> list[dict[str, Any]]:
    """What the fake stage noted at each of its starts."""
    book = work(path) / stage / "fake.jsonl"
    return [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []


def product(path: Path, kind: str) -> Path:
    """The one product of a stage type."""
    (folder,) = (path.parent / ".rlhf" / "products").glob(f"{kind}-*")
    return folder


def running(pid: int) -> bool:
    """Whether such a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
