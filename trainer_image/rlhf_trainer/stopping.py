"""The request to stop a stage, as signal handlers make it."""

from __future__ import annotations

import time

LOOK_SECONDS = 0.1


class StopRequest:
    """Whether the stage was asked to stop. Like a `threading.Event`, but without its lock: a handler runs in the middle of
    the main thread, and would wait for ever for a lock that this thread holds."""

    def __init__(self) -> None:
        self._made = False

    def set(self) -> None:
        """Ask; also from a signal handler."""
        self._made = True

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._made

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is asked; gives whether it was."""
        end = time.monotonic() + seconds
        while not self._made and (remaining := end - time.monotonic()) > 0:
            time.sleep(min(remaining, LOOK_SECONDS))
        return self._made
