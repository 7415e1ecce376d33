"""The processes of the stages that run: watched, asked to stop, ended with the run."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_sdk.local.process import StageProcess
from rlhf_sdk.local.signals import Signals
from rlhf_sdk.local.view import View

REFRESH = 0.25
"""Seconds between two looks of the view."""


class RunningStages:
    """Processes by stage.

    Args:
        signals: what the user asks for.
        view: where that is answered.
    """

    def __init__(self, signals: Signals, view: View) -> None:
        self._signals = signals
        self._view = view
        self._processes: dict[str, StageProcess] = {}
        self._stops: dict[str, tuple[str, str]] = {}
        self._answered = 0

    def __bool__(self) -> bool:
        return bool(self._processes)

    @property
    def names(self) -> list[str]:
        """The stages that run; also for other threads."""
        return list(self._processes)

    def add(self, name: str, running: StageProcess) -> None:
        """Watch a stage's process."""
        self._stops.pop(name, None)
        self._processes[name] = running

    def ended(self) -> Iterator[tuple[str, int, tuple[str, str] | None]]:
        """Each stage that has ended: name, exit code, and why it had been asked to stop."""
        for name, running in list(self._processes.items()):
            code = running.poll()
            if code is not None:
                del self._processes[name]
                yield name, code, self._stops.pop(name, None)

    def stop(self, name: str, why: tuple[str, str]) -> None:
        """Ask a stage to stop: once, and once more to end at once; `why` is reason and message."""
        self._stops.setdefault(name, why)
        self._stop(self._processes[name])

    def answer(self) -> None:
        """Say that a signal was understood; never from its handler, which may interrupt a redraw."""
        if len(self._signals.received) > self._answered and self._answered < 2:
            self._answered = min(2, len(self._signals.received))
            if self._processes:
                self._view.say(
                    "stopping: stages save their checkpoints; once more kills them"
                    if self._answered == 1
                    else "killed: what was computed since the last checkpoints is lost"
                )

    def end_all(self) -> None:
        """Nothing outlives the run, not even one that ends with an exception."""
        while any(running.poll() is None for running in self._processes.values()):
            self.answer()
            for running in self._processes.values():
                self._stop(running)
            self._signals.wait(REFRESH)

    def _stop(self, running: StageProcess) -> None:
        if self._signals.kill:
            running.kill()
        elif not running.stopping:
            running.stop()
