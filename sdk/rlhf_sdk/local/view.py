"""What a run shows: the interface, and plain lines for logs and scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from rlhf_api.plan import Plan
from rlhf_sdk.local.progress import Progress, labelled
from rlhf_sdk.local.state import RunState
from rlhf_sdk.text import duration, number, plural, visible


class View(Protocol):
    """Told of everything a person may want to see."""

    def start(self, plan: Plan, state: RunState) -> None:
        """The run begins."""

    def plan(self, plan: Plan) -> None:
        """Prepare is done: the plan has digests."""

    def stage(self, name: str, state: RunState) -> None:
        """A stage has changed its state."""

    def say(self, text: str, *, bad: bool = False) -> None:
        """Something to tell."""

    def progress(self, state: RunState, latest: Mapping[str, Progress]) -> None:
        """Several times a second."""

    def end(self) -> None:
        """The run is over; what follows is printed as usual."""


class PlainView:
    """One line an event, and one a stage now and then."""

    def __init__(self, stream: TextIO | None = None, every: float = 15.0) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._told: dict[str, tuple[float, int]] = {}
        self._types: dict[str, str] = {}

    def start(self, plan: Plan, state: RunState) -> None:
        self._types = {stage.name: stage.type for stage in plan.stages}
        self._line(f"{state.job}: {len(plan.stages)} stages, {plural(state.cores, 'core')}, uid {state.uid}")

    def plan(self, plan: Plan) -> None:
        pass

    def stage(self, name: str, state: RunState) -> None:
        stage = state.stages[name]
        self._told.pop(name, None)
        if stage.running:
            again = f", attempt {stage.attempt}" if stage.attempt > 1 else ""
            self._line(f"{name}: started ({self._types.get(name, '?')}, {threads(stage.threads)}{again})")
        elif stage.state == "Reused":
            self._line(f"{name}: reused {short(stage.product)}, verified")
        elif stage.state == "Complete":
            self._line(f"{name}: done in {duration(stage.seconds)}")
        elif stage.state != "Waiting":
            self._line(f"{name}: {stage.state.lower()}")

    def say(self, text: str, *, bad: bool = False) -> None:
        for line in text.splitlines():
            self._line(f"! {line}" if bad else line)

    def progress(self, state: RunState, latest: Mapping[str, Progress]) -> None:
        now = time.monotonic()
        for name, progress in latest.items():
            if not state.stages[name].running:
                continue
            when, step = self._told.get(name, (0.0, -1))
            if not progress.step:
                waits = progress.activity.startswith("waiting")
                if step == -1:
                    self._told[name] = (now, 0)
                if waits and step == -1:
                    self._line(f"{name}: {progress.activity}")
                elif not waits and step == 0 and now - when >= self._every:  # a first step may take minutes
                    self._told[name] = (now, 0)
                    doing = [progress.doing] if progress.counts_steps and progress.doing else []
                    self._line(f"{name}: {', '.join([*doing, describe(progress)])}")
                continue
            if step < 1 or now - when >= self._every:
                again = (
                    step == progress.step and progress.counts_steps and progress.doing
                )  # a step may take minutes: say where it is
                self._told[name] = (now, progress.step)
                self._line(f"{name}: {describe(progress)}{f', {again}' if again else ''}")

    def end(self) -> None:
        pass

    def _line(self, text: str) -> None:
        self._stream.write(f"{time.strftime('%H:%M:%S')} {visible(text)}\n")
        self._stream.flush()


def describe(progress: Progress) -> str:
    """`step 10/120, loss 2.31, 480 tokens/s, eta 2:10`; of what is no step `frozen layers, 3/11 batches, eta 0:40`."""
    count = f"{progress.step}/{progress.total}" if progress.total else str(progress.step)
    parts = (
        [f"step {count}"] if progress.counts_steps else [*filter(None, [progress.doing]), f"{count} {progress.unit}"]
    )
    parts += [f"{name} {number(value)}" for name, value in labelled(progress.headline).items()]
    if progress.rate:
        parts.append(f"{progress.rate:.0f} tokens/s")
    if progress.eta is not None:
        parts.append(f"eta {duration(progress.eta)}")
    return ", ".join(parts)


def short(product: str | None) -> str:
    """`sft-0a1b2c3d` of a product's whole name."""
    kind, _, digest = (product or "").rpartition("-")
    return f"{kind}-{digest[:8]}" if kind else "?"


def threads(count: int) -> str:
    """`1 thread`."""
    return "1 thread" if count == 1 else f"{count} threads"
