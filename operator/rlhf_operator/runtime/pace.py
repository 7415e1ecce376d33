"""How often: a bound on the rate of requests, and growing pauses after failures."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

MOST_HELD = 120.0
"""Seconds that a server can ask to be left alone for, at most."""


class TokenBucket:
    """At most `rate` a second, and `burst` at once; who waits goes in order of arrival."""

    def __init__(self, rate: float, burst: int) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"found rate {rate} and burst {burst}; expected a rate above 0 and a burst of 1 or more")
        self._interval = 1 / rate
        self._credit = (burst - 1) * self._interval
        self._next = -math.inf
        self._held = -math.inf
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Return when the next request may be sent."""
        clock = asyncio.get_running_loop().time
        async with self._turn:
            while (delay := self.delay(clock())) > 0:
                await asyncio.sleep(delay)
            self.take(clock())

    def delay(self, now: float) -> float:
        """Seconds until the next request may be sent; 0: now."""
        return max(0.0, self._next - now, self._held - now)

    def take(self, now: float) -> None:
        """A request is sent."""
        self._next = max(self._next, now - self._credit) + self._interval

    def hold(self, now: float, seconds: float) -> None:
        """Send nothing for so long: the server asked for it."""
        self._held = max(self._held, now + min(seconds, MOST_HELD))


class Backoff:
    """Pauses that double from `first` to `most` seconds, each shortened by chance to no less than half."""

    def __init__(self, first: float, most: float, chance: Callable[[], float] = random.random) -> None:
        self._first = first
        self._most = most
        self._chance = chance
        self._failures = 0

    def next(self) -> float:
        """The pause after one more failure."""
        pause = grown(self._failures, self._first, self._most)
        self._failures += 1
        return pause * (0.5 + 0.5 * self._chance())

    def reset(self) -> None:
        """It went well: the next pause is the first again."""
        self._failures = 0


def grown(failures: int, first: float, most: float) -> float:
    """`first` doubled for each earlier failure, up to `most`."""
    return min(most, first * 2.0 ** min(failures, 60))
