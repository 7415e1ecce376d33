"""What a stage measures: `metrics.jsonl` (exact, no clock), `timings.jsonl`, TensorBoard events, and `/metrics`.

`metrics.jsonl` has one line a step: keys sorted, floats in their shortest form that reads back exactly, undefined
values as null, and no clock, so that an interrupted and resumed run writes the same bytes as an undisturbed one.
All that depends on the machine goes to `timings.jsonl`.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, TypeVar

import orjson

from rlhf_trainer.exits import GuardTripped, explain_full_disk
from rlhf_trainer.telemetry.catalog import find, finite_required

Item = TypeVar("Item")

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""Values are converted and written at most this often (and before every checkpoint): a tensor's value is a
synchronisation of its device."""


class Sink(Protocol):
    """Takes the values of a step once they are numbers: TensorBoard, Prometheus."""

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def phase(self, name: str, seconds: float, tokens: int) -> None: ...

    def close(self) -> None: ...


@dataclass
class Phase:
    """A part of a step; add to `tokens` what it computed, and `report` the share of it that is done, 0 to 1."""

    tokens: int = 0
    report: Callable[[float], object] = lambda _share: None

    def each(self, items: Sequence[Item]) -> Iterator[Item]:
        """The items one by one; each that is done is reported as its share."""
        for number, item in enumerate(items):
            yield item
            self.report((number + 1) / len(items))


@dataclass
class _Timing:
    started: float
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)


class Metrics:
    """Writes a stage's measurements. Only rank 0 writes; the others' calls cost nothing but the check for NaN.

    Args:
        work: the stage's work folder.
        rank: this process's rank.
        attempt: number of the attempt, for `timings.jsonl`.
        sinks: further takers.
        clock: seconds, monotonic.
        device_peak: most bytes of its GPU this process has held so far; None: it has none.
        say: shown the phase of a step and its share (`Progress.say`); gives the phase before.
    """

    def __init__(
        self,
        work: Path,
        *,
        rank: int = 0,
        attempt: int = 0,
        sinks: tuple[Sink, ...] = (),
        clock: Callable[[], float] = time.perf_counter,
        device_peak: Callable[[], int] | None = None,
        say: Callable[[str, float | None], str] = lambda _phase, _share: "",
    ) -> None:
        self._work = work
        self._rank = rank
        self._attempt = attempt
        self._sinks = sinks
        self._clock = clock
        self._device_peak = device_peak
        self._say = say
        self._waiting: list[tuple[int, dict[str, SupportsFloat]]] = []
        self._timings: list[dict[str, Any]] = []
        self._timing = _Timing(clock())
        self._flushed = clock()
        self._known: set[str] = set()
        self.latest: dict[str, float] = {}
        """The values of the last step that was flushed."""
        self.tokens = 0
        """Tokens of all phases so far."""

    @property
    def path(self) -> Path:
        """`metrics.jsonl`."""
        return self._work / "metrics.jsonl"

    def log(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Record a step's values. `step` counts finished steps: the first is 1.

        Values may be numbers or one-element tensors; tensors are converted at the next flush, not now.
        """
        for name in values.keys() - self._known:
            self._known.add(name)
            if find(name) is None:
                log.warning(
                    "metric %s has no entry in rlhf_trainer.telemetry.catalog: it is in metrics.jsonl only", name
                )
        self._close_timing(step)
        self._waiting.append((step, dict(values)))
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    @contextmanager
    def phase(self, name: str, tokens: int = 0) -> Iterator[Phase]:
        """Time a part of the current step: `with metrics.phase("generate") as phase: ...; phase.tokens += n`."""
        started = self._clock()
        before = self._say(name, None)
        phase = Phase(tokens, partial(self._say, name))
        try:
            yield phase
        finally:
            self._say(before, None)
            seconds = self._clock() - started
            timing = self._timing
            timing.seconds[name] = timing.seconds.get(name, 0.0) + seconds
            timing.tokens[name] = timing.tokens.get(name, 0) + phase.tokens
            self.tokens += phase.tokens
            for sink in self._sinks:
                sink.phase(name, seconds, phase.tokens)

    def flush(self, *, sync: bool = False) -> None:
        """Convert and write what waits; with `sync`, down to the disk.

        Raises:
            GuardTripped: a value that must be finite (a loss, a gradient's norm) is not; nothing of that step or of
                later ones is written.
        """
        waiting, self._waiting = self._waiting, []
        timings, self._timings = self._timings, []
        self._flushed = self._clock()
        ready: list[tuple[int, dict[str, float]]] = []
        bad: GuardTripped | None = None
        for step, values in waiting:
            numbers = {name: float(value) for name, value in values.items()}
            bad = _not_finite(step, numbers)
            if bad is not None:
                break
            ready.append((step, numbers))
            self.latest = numbers
        if self._rank == 0:
            self._append(self.path, [line(*entry) for entry in ready], sync)
            self._append(self._work / "timings.jsonl", [orjson.dumps(timing) + b"\n" for timing in timings], False)
            with explain_full_disk(self._work, "writing events"):
                for sink in self._sinks:
                    for step, numbers in ready:
                        sink.step(step, numbers)
        if bad is not None:
            raise bad

    def rewind(self, step: int) -> None:
        """Drop every line after `step`: those steps are computed again. A torn last line goes too.

        Lines of `timings.jsonl` stay (the time was spent), but for a torn one.
        """
        self._waiting.clear()
        self._timings.clear()
        if self._rank == 0:
            cut(self.path, lambda row: row["step"] <= step)
            cut(self._work / "timings.jsonl", lambda _: True)

    def close(self) -> None:
        """Write what waits and let go of the sinks."""
        self.flush(sync=True)
        for sink in self._sinks:
            sink.close()

    def _close_timing(self, step: int) -> None:
        now = self._clock()
        timing, self._timing = self._timing, _Timing(now)
        if self._rank != 0:
            return
        seconds = now - timing.started
        tokens = sum(timing.tokens.values())
        self._timings.append(
            {
                "step": step,
                "attempt": self._attempt,
                "seconds": seconds,
                "phases": timing.seconds,
                "tokens": {name: count for name, count in timing.tokens.items() if count},
                "tokensPerSecond": tokens / seconds if seconds > 0 else None,
                "peakRssBytes": peak_rss(),
                **({"peakDeviceBytes": self._device_peak()} if self._device_peak is not None else {}),
            }
        )

    def _append(self, path: Path, lines: list[bytes], sync: bool) -> None:
        if not lines and not sync:
            return
        with explain_full_disk(self._work, f"writing {path.name}"), path.open("ab") as file:
            file.write(b"".join(lines))
            if sync:
                file.flush()
                os.fsync(file.fileno())


def cut(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Shorten a file of JSON lines before the first line that is torn or not to be kept."""
    if not path.exists():
        return
    size = 0
    for raw in path.read_bytes().splitlines(keepends=True):
        if not raw.endswith(b"\n") or not keep(orjson.loads(raw)):
            break
        size += len(raw)
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def line(step: int, values: Mapping[str, float]) -> bytes:
    """One line of metrics.jsonl: {"step": N, NAME: VALUE, ...}, keys sorted; NaN and infinities are null."""
    return orjson.dumps({**values, "step": step}, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def peak_rss() -> int:
    """Most memory this process has had resident so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _not_finite(step: int, values: Mapping[str, float]) -> GuardTripped | None:
    for name, value in values.items():
        if finite_required(name) and not math.isfinite(value):
            return GuardTripped(
                f"{name} is {value} at step {step}; expected a finite number. The last checkpoint, made before this "
                "step, is kept. Lower the learning rate, check the data, or compute in float32.",
                reason="NaN",
            )
    return None
