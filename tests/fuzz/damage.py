"""Damage to files and values, drawn from a seed; and the bound on processor time that no damaged input may pass."""

from __future__ import annotations

import copy
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 1.0
"""Of the processor, which a damaged input may take at most."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 2**31, 2**63, -(2**63), 2**64, 10**30),
    *("", "0", "llama", "1e5", "null", "\x00", "\x1b[31m\x07", "‮", "é" * 300, "a" * 5000, "../../x", "/etc/passwd"),
    *([], [0], [None], [[]], {}, {"a": 1}, [1, "x", None], {"": None}),
)
"""Values that stand where others are expected."""


class TooSlow(BaseException):
    """More than SECONDS of the processor: no handler of Exception takes it."""


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooSlow where the block takes longer. Of the processor: a crowded machine changes nothing."""

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def places(value: Any) -> list[tuple[Any, ...]]:
    """The path of every value below one. Deep values may lie in deep ones: no recursion."""
    paths: list[tuple[Any, ...]] = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        path, holder = waiting.pop()
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        below = [((*path, key), item) for key, item in entries]
        paths += [inner for inner, _ in below]
        waiting += reversed(below)
    return paths


def odd_value(draw: random.Random) -> Any:
    """A value of a wrong type or size; seldom a deep one."""
    if draw.random() < 0.05:
        deep: Any = 1
        for _ in range(draw.choice((5, 70, 300))):
            deep = [deep] if draw.random() < 0.5 else {"a": deep}
        return deep
    return copy.deepcopy(draw.choice(ODD))


def misshape(value: Any, draw: random.Random) -> Any:
    """The value with one to three places replaced, removed or given once more under another name."""
    damaged = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        below = places(damaged)
        if not below or draw.random() < 0.03:
            return odd_value(draw)
        *parents, key = draw.choice(below)
        holder = damaged
        for parent in parents:
            holder = holder[parent]
        change = draw.random()
        if change < 0.75:
            holder[key] = odd_value(draw)
        elif change < 0.9:
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(odd_value(draw))[:50]] = holder[key]
        else:
            holder.append(holder[key])
    return damaged


def corrupt(content: bytes, draw: random.Random) -> bytes:
    """The bytes cut off, with bits flipped, or with a part removed, doubled or replaced by what is no text."""
    kind = draw.choice(("cut", "flip", "remove", "double", "replace", "empty", "insert"))
    start = draw.randrange(len(content) + 1)
    end = min(len(content), start + draw.choice((1, 2, 8, 64, 1000)))
    if kind == "cut":
        return content[:start]
    if kind == "empty":
        return b""
    if kind == "flip":
        flipped = bytearray(content)
        for _ in range(draw.choice((1, 3, 30))):
            if flipped:
                flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    junk = draw.choice((b"\x00", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"9" * 400, b"[" * 5000, b"\x1b]0;x\x07", b"{"))
    if kind == "insert":
        return content[:start] + junk + content[start:]
    part = {"remove": b"", "double": content[start:end] * 2, "replace": junk}[kind]
    return content[:start] + part + content[end:]
