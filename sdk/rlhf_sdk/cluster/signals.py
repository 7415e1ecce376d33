"""Signals that ask this command to end, where something must be cleaned up first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """For the time of a `with` block they raise, where Python would die of some; not while `held`, but right after."""

    def __init__(self) -> None:
        self._deferring = False
        self._came: int | None = None

    def __enter__(self) -> Ending:
        self._before = {number: signal.signal(number, self._asked) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What must not be broken off."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if self._came is not None:
                self._raise(self._came)

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if self._deferring:
            self._came = number
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        self._came = None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
