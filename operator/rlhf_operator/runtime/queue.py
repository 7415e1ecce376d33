"""Keys to work on: each at most once in the queue, and by one worker at a time.

Like client-go's: a key put in while it is worked on comes again when that is done. What differs: taking a key out
forgets when it was to come later, since whoever works on it sees all there is and says anew when to come back; and
keys put in `low` (a start's whole list) let others pass.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Generic, TypeVar

from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.pace import grown

K = TypeVar("K")

FIRST_BACKOFF, MOST_BACKOFF = 0.005, 300.0
"""Seconds between the tries of a key that fails."""
LOW_EVERY = 8
"""Of so many keys taken, one is a low one, so that a stream of others does not starve them."""


class Queue(Generic[K]):
    """A work queue, used in one event loop."""

    def __init__(
        self, name: str, metrics: Metrics | None = None, first: float = FIRST_BACKOFF, most: float = MOST_BACKOFF
    ) -> None:
        self.metrics = (metrics or Metrics()).queue(name)
        self._first, self._most = first, most
        self._high: deque[K] = deque()
        self._low: deque[K] = deque()
        self._waiting: dict[K, float] = {}  # since when
        self._low_ones: set[K] = set()
        self._working: dict[K, float] = {}  # since when
        self._again: dict[K, bool] = {}  # put in while worked on: low?
        self._due: dict[K, tuple[float, int]] = {}  # when, and which entry of the heap says so
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._failures: dict[K, int] = {}
        self._taken = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._takers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K, *, low: bool = False) -> None:
        """Put a key in; one that is in already stays in its place, or moves ahead if it was a low one."""
        if key in self._working:
            self._again[key] = low and self._again.get(key, True)
            return
        if key in self._waiting:
            if not low and key in self._low_ones:
                self._low_ones.discard(key)
                self._high.append(key)  # its place among the low ones is passed over
            return
        self._waiting[key] = self._now()
        if low:
            self._low_ones.add(key)
        (self._low if low else self._high).append(key)
        self.metrics.adds.inc()
        self.metrics.depth.set(len(self))
        self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Put a key in later; of several times the earliest counts."""
        due = self._now() + seconds
        if seconds <= 0:
            self.add(key)
        elif key not in self._due or due < self._due[key][0]:
            self._count += 1
            self._due[key] = (due, self._count)
            heapq.heappush(self._heap, (due, self._count, key))
            if len(self._heap) > 2 * len(self._due) + 64:  # most stand for times that no longer count
                self._heap = [entry for entry in self._heap if self._counts(entry)]
                heapq.heapify(self._heap)
            self._set_alarm()

    def failed(self, key: K) -> float:
        """Put a key in after a pause that doubles with each failure; gives the pause."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = grown(failures, self._first, self._most)
        self.metrics.retries.inc()
        self.add_after(key, pause)
        return pause

    def succeeded(self, key: K) -> None:
        """The key's next failure is its first."""
        self._failures.pop(key, None)

    async def take(self) -> K:
        """The next key; `done` must follow."""
        while not self._waiting:
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                if taker.done() and not taker.cancelled():
                    self._wake()  # it was ours to take: let another
                raise
        key = self._next()
        now = self._now()
        self.metrics.waited.observe(now - self._waiting.pop(key))
        self.metrics.depth.set(len(self))
        self._low_ones.discard(key)
        self._due.pop(key, None)
        self._working[key] = now
        return key

    def done(self, key: K) -> None:
        """The key is not worked on any more."""
        self.metrics.worked.observe(self._now() - self._working.pop(key))
        if key in self._again:
            self.add(key, low=self._again.pop(key))

    def observe(self) -> None:
        """Bring the metrics of what is worked on up to date: before they are read."""
        spent = [self._now() - since for since in self._working.values()]
        self.metrics.unfinished.set(sum(spent))
        self.metrics.longest.set(max(spent, default=0.0))

    def _next(self) -> K:
        self._taken += 1
        low_first = self._taken % LOW_EVERY == 0
        for low in (low_first, not low_first):
            line = self._low if low else self._high
            while line:
                key = line.popleft()
                if key in self._waiting and (key in self._low_ones) == low:
                    return key
        raise AssertionError("a key that waits stands in one of the lines")

    def _wake(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._heap and not self._counts(self._heap[0]):
            heapq.heappop(self._heap)  # taken, or brought forward, since
        if self._heap:
            self._alarm = asyncio.get_running_loop().call_at(self._heap[0][0], self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._now()
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._counts(entry):
                del self._due[entry[2]]
                self.add(entry[2])
        self._set_alarm()

    def _counts(self, entry: tuple[float, int, K]) -> bool:
        """Whether an entry of the heap is still what its key waits for."""
        return self._due.get(entry[2]) == entry[:2]

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
