"""How far a stage is: what `/progress` answers and a progress bar shows."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

WINDOW = 20
"""Steps over which the rate is taken: a rate over the whole run would hide that it changed."""


class Progress:
    """Steps done of how many, the rate, the time left and headline metrics. Safe to read from another thread.

    Args:
        about: stage, type, attempt: repeated in every answer.
        clock: seconds, monotonic.
    """

    def __init__(self, about: Mapping[str, Any] | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._about = dict(about or {})
        self._clock = clock
        self._lock = threading.Lock()
        self._step = 0
        self._begun: int | None = None
        self._total = 0
        self._unit = "steps"
        self._phase = "starting"
        self._share: float | None = None
        self._headline: dict[str, float] = {}
        self._tokens = 0
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=WINDOW + 1)

    def start(self, total: int, unit: str = "steps", *, done: int = 0, phase: str = "running") -> None:
        """Begin to count towards `total`; `done` of them were made before (a resumed run)."""
        with self._lock:
            self._total, self._unit, self._step, self._phase, self._share = total, unit, done, phase, None
            self._begun = done
            self._marks.clear()
            self._marks.append((self._clock(), done, self._tokens))

    def advance(self, step: int, headline: Mapping[str, float] | None = None, *, tokens: int = 0) -> None:
        """`step` of the total are done; `tokens` more were computed."""
        with self._lock:
            self._step = step
            self._tokens += tokens
            if headline is not None:
                self._headline = dict(headline)
            self._marks.append((self._clock(), step, self._tokens))

    def say(self, phase: str, share: float | None = None) -> str:
        """What is being done now, in a word or two: `waiting for the lock`, `saving`, `publishing`.

        Args:
            phase: the words.
            share: how much of it is done, 0 to 1; None where it is not counted.

        Returns:
            What was being done before.
        """
        with self._lock:
            before, self._phase, self._share = self._phase, phase, share
        return before

    def snapshot(self) -> dict[str, Any]:
        """{stage, type, attempt, phase, phaseShare, step, begun, total, unit, tokensPerSecond, etaSeconds, headline},
        ready for JSON.

        `begun` is the step that a resumed run began from; null until it has begun. Rates are null until two steps were
        seen.
        """
        with self._lock:
            rate, tokens = self._rates()
            remaining = self._total - self._step
            return {
                **self._about,
                "phase": self._phase,
                "phaseShare": self._share,
                "step": self._step,
                "begun": self._begun,
                "total": self._total,
                "unit": self._unit,
                "tokensPerSecond": tokens,
                "etaSeconds": 0.0 if remaining <= 0 < self._total else (remaining / rate if rate else None),
                "headline": dict(self._headline),
            }

    def _rates(self) -> tuple[float | None, float | None]:
        if len(self._marks) < 2:
            return None, None
        (start, first, before), (end, last, after) = self._marks[0], self._marks[-1]
        seconds = end - start
        if seconds <= 0 or last <= first:
            return None, None
        return (last - first) / seconds, (after - before) / seconds or None
