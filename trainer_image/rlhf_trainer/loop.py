"""The one training loop, and the only place that knows how a run is resumed.

A step is finished, logged, and - when due - saved; a run that is killed at any instruction and started again makes the
same steps from the last checkpoint on, with the same random numbers, and writes the same bytes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

import torch

from rlhf_trainer import distributed, rng
from rlhf_trainer.context import StageContext
from rlhf_trainer.exits import GuardTripped, Stopped
from rlhf_trainer.telemetry.catalog import finite_required, headline

log = logging.getLogger(__name__)

SAY_SECONDS = 10.0
"""Between two lines of the log that say how far the run is."""


class Saved(Protocol):
    """What saves and loads itself: `rlhf_trainer.engine.Engine`."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


class Task(Protocol):
    """What is trained. Everything that changes from step to step is in its engines, its state, or the generators of
    Python, NumPy and torch."""

    @property
    def total(self) -> int:
        """Steps."""
        ...

    @property
    def engines(self) -> Mapping[str, Saved]:
        """By name."""
        ...

    def step(self, step: int) -> Mapping[str, SupportsFloat]:
        """Make one step; `step` counts from 0. What it gives goes to metrics.jsonl (rank 0's), as step `step` + 1.

        Raises:
            GuardTripped: a bound was passed. Every rank must raise it alike.
        """
        ...

    def state(self) -> dict[str, Any]:
        """This rank's state beyond engines and generators: numbers, strings, lists, dicts and tensors."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        ...


def train(context: StageContext, task: Task) -> None:
    """Train from the last checkpoint, or the beginning, to the end.

    Raises:
        Stopped: asked to stop; a checkpoint of the last step is in place.
        GuardTripped: the task's, or NaN in a loss or gradient norm; the last checkpoint is kept.
    """
    done = resume(context, task)
    every = context.file.execution.checkpoint_every
    saved, logged_at = done, time.monotonic()
    context.progress.start(task.total, "steps", done=done, phase="training")
    for step in range(done, task.total):
        before = context.metrics.tokens
        values = task.step(step)
        context.metrics.log(step + 1, values)
        stop, bad = distributed.any_rank(context.stop.is_set(), _bad(values))
        if bad:
            context.metrics.flush()  # raises where the value is; the other ranks say so too
            raise GuardTripped(f"a loss is not finite on another rank at step {step + 1}", reason="NaN")
        latest = headline(context.metrics.latest)
        context.progress.advance(step + 1, latest, tokens=context.metrics.tokens - before)
        if time.monotonic() - logged_at >= SAY_SECONDS or step + 1 == task.total:
            logged_at = time.monotonic()
            log.info("step %d of %d %s", step + 1, task.total, " ".join(f"{k}={v:.4g}" for k, v in latest.items()))
        last = step + 1 == task.total
        if stop or last or (every and (step + 1) % every == 0):
            save(context, task, step + 1)
            saved = step + 1
        if stop and not last:
            raise Stopped(f"stopped on request after step {saved} of {task.total}; a checkpoint is in place")


def save(context: StageContext, task: Task, step: int) -> None:
    """Save the checkpoint of `step` done steps; metrics.jsonl reaches the disk first."""
    context.progress.say("saving a checkpoint")
    context.metrics.flush(sync=True)

    def write(folder: Path) -> None:
        rank_folder = folder / f"rank-{context.rank:05d}"
        rank_folder.mkdir()
        # Generators first: an engine that draws while saving would otherwise shift what comes after.
        torch.save(rng.capture(), rank_folder / "rng.pt")
        torch.save(task.state(), rank_folder / "task.pt")
        for name, engine in task.engines.items():
            engine.save(folder / f"engine-{name}")

    context.checkpoints.save(step, write)
    context.progress.say("training")


def resume(context: StageContext, task: Task) -> int:
    """Load the newest good checkpoint and cut metrics.jsonl back to it; gives the steps done."""
    checkpoint = context.checkpoints.latest()
    if checkpoint is None:
        context.metrics.rewind(0)
        return 0
    log.info("resuming after step %d of %d", checkpoint.step, task.total)
    context.progress.say("loading a checkpoint")
    rank_folder = checkpoint.path / f"rank-{context.rank:05d}"
    for name, engine in task.engines.items():
        engine.load(checkpoint.path / f"engine-{name}")
    task.load_state(torch.load(rank_folder / "task.pt", weights_only=True, map_location="cpu"))
    rng.restore(torch.load(rank_folder / "rng.pt", weights_only=True, map_location="cpu"))
    context.metrics.rewind(checkpoint.step)
    return checkpoint.step


def _bad(values: Mapping[str, SupportsFloat]) -> bool:
    """Whether a number among the values must be finite and is not. Tensors wait for the next flush."""
    return any(finite_required(name) and isinstance(v, float) and not math.isfinite(v) for name, v in values.items())
