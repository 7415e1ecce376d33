"""A stage's processes, under their guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf_api.contract import OFFLINE
from rlhf_sdk.local import guard

TRAINER = (sys.executable, "-m", "rlhf_trainer.launch")
"""What computes a stage: gets the path of its stage.json."""

NOT_FOR_STAGES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Credentials that only `prepare` sees, as on a cluster."""


def environment(prepare: bool, inherited: Mapping[str, str]) -> dict[str, str]:
    """Environment of a stage: prepare may fetch, the others run offline and without credentials."""
    base = {**inherited, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}  # no file beside the job shadows a library
    if prepare:
        return base
    return {name: value for name, value in base.items() if name not in NOT_FOR_STAGES} | OFFLINE


class StageProcess:
    """One attempt of a stage."""

    def __init__(
        self,
        command: Sequence[str],
        stage_file: Path,
        log: Path,
        *,
        cwd: Path,
        env: Mapping[str, str],
        alive: int,
        lock: int,
        grace: float,
    ) -> None:
        """Start it.

        Args:
            command: what computes a stage.
            stage_file: its last argument.
            log: where its own output goes (ranks log for themselves).
            cwd: working directory.
            env: whole environment.
            alive: read end of the pipe whose other end only this runner holds.
            lock: the run's lock; the guard holds it too, so that nobody runs the job while stages still stop.
            grace: seconds from SIGTERM to SIGKILL when the runner has gone.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        script = [sys.executable, "-S", "-E", guard.__file__, "--alive", str(alive), "--grace", str(grace)]
        self._process = subprocess.Popen(
            [*script, "--log", str(log), "--", *command, str(stage_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=cwd,
            env=dict(env),
            pass_fds=(alive, lock),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.stopping = False
        """Whether it was asked to stop."""

    def poll(self) -> int | None:
        """Exit code of the stage, 128 + n for signal n; None: it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def stop(self) -> None:
        """Ask for a checkpoint and the end."""
        if not self.stopping:
            self.stopping = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, with all its ranks."""
        if not self.stopping:
            self.stop()
        self._process.send_signal(signal.SIGTERM)


def cores_here() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


@contextmanager
def alive_pipe() -> Iterator[int]:
    """The end for the guards of a pipe whose closing tells them that this runner is gone."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)
