"""Keys to work on: each at most once in the queue, and by one worker at a time.

Like client-go's: a key put in while it is worked on comes again when that is done. What differs: taking a key out
forgets when it was to come later, since whoever works on it sees all there is and says anew when to come back; and
keys stand in lanes, so that what a person has just asked for passes the daily work, and that a start's whole list.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from enum import IntEnum
from typing import Generic, TypeVar

from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.pace import grown

K = TypeVar("K")

FIRST_BACKOFF, MOST_BACKOFF = 0.005, 300.0
"""Seconds between the tries of a key that fails."""
USUAL_EVERY, LOW_EVERY = 4, 8
"""Of so many keys taken, one is from that lane, so that a stream of others does not starve it."""


class Lane(IntEnum):
    """Who goes before whom."""

    FIRST = 0
    USUAL = 1
    LOW = 2


class Queue(Generic[K]):
    """A work queue, used in one event loop."""

    def __init__(
        self, name: str, metrics: Metrics | None = None, first: float = FIRST_BACKOFF, most: float = MOST_BACKOFF
    ) -> None:
        self.metrics = (metrics or Metrics()).queue(name)
        self._first, self._most = first, most
        self._lines: dict[Lane, deque[K]] = {lane: deque() for lane in Lane}
        self._waiting: dict[K, float] = {}  # since when
        self._lanes: dict[K, Lane] = {}  # of those that wait
        self._working: dict[K, float] = {}  # since when
        self._again: dict[K, Lane] = {}  # put in while worked on
        self._due: dict[K, tuple[float, int]] = {}  # when, and which entry of the heap says so
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._failures: dict[K, int] = {}
        self._taken = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._takers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K, lane: Lane = Lane.USUAL) -> None:
        """Put a key in; one that is in already stays in its place, or moves to a lane that goes before its own."""
        if key in self._working:
            self._again[key] = min(lane, self._again.get(key, lane))
            return
        if key in self._waiting:
            if lane < self._lanes[key]:
                self._lanes[key] = lane
                self._lines[lane].append(key)  # its place in the other lane is passed over
            return
        self._waiting[key] = self._now()
        self._lanes[key] = lane
        self._lines[lane].append(key)
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
        self._lanes.pop(key)
        self._due.pop(key, None)
        self._working[key] = now
        return key

    def done(self, key: K) -> None:
        """The key is not worked on any more."""
        self.metrics.worked.observe(self._now() - self._working.pop(key))
        if key in self._again:
            self.add(key, self._again.pop(key))

    def observe(self) -> None:
        """Bring the metrics of what is worked on up to date: before they are read."""
        spent = [self._now() - since for since in self._working.values()]
        self.metrics.unfinished.set(sum(spent))
        self.metrics.longest.set(max(spent, default=0.0))

    def _next(self) -> K:
        self._taken += 1
        for lane in self._turn():
            line = self._lines[lane]
            while line:
                key = line.popleft()
                if self._lanes.get(key) == lane:
                    return key
        raise AssertionError("a key that waits stands in one of the lines")

    def _turn(self) -> tuple[Lane, Lane, Lane]:
        if self._taken % LOW_EVERY == 0:
            return Lane.LOW, Lane.USUAL, Lane.FIRST
        if self._taken % USUAL_EVERY == 0:
            return Lane.USUAL, Lane.FIRST, Lane.LOW
        return Lane.FIRST, Lane.USUAL, Lane.LOW

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
