"""What the user asks of a run by signals, and waiting that any signal - a child's end is one - cuts short."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, a closed terminal."""


@dataclass
class Signals:
    """The signals received so far."""

    wait: Callable[[float], None]
    """Wait so many seconds, or until a signal comes."""
    received: list[int] = field(default_factory=list)
    """Signals that ask to stop, in their order."""

    @property
    def stop(self) -> bool:
        """Stages should save and end."""
        return bool(self.received)

    @property
    def kill(self) -> bool:
        """They should end at once."""
        return len(self.received) > 1

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was among it."""
        return signal.SIGINT in self.received


@contextmanager
def listening() -> Iterator[Signals]:
    """Note signals instead of dying of them; main thread only."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)

    def wait(seconds: float) -> None:
        if select.select([read], [], [], max(0.0, seconds))[0]:
            os.read(read, 4096)

    signals = Signals(wait)

    def note(number: int, _: object) -> None:
        signals.received.append(number)

    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]  # nohup, `&` in a script
    before = {number: signal.signal(number, note) for number in heard}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)
