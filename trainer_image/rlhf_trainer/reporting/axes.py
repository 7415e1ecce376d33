"""Scales of plots: round ticks, positions, long series made short, numbers in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MINUS = "\u2212"
NARROW = "\u202f"
"""A narrow space that no line breaks at: between thousands, and before %."""

ROUNDING = 1e-15
"""What is nearer to 0 is the error of a sum."""

Point = tuple[float, float | None]
"""Step and value; None: not measured, or not a number."""


@dataclass(frozen=True)
class Scale:
    """Maps values to positions between `start` and `end` (which may run downwards), linear or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 2)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) that span [low, high]: the first is at or
    below `low`, the last at or above `high`."""
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"no range: {low} to {high}")
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) * 0.5 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten that span [low, high], both above 0."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class Binned:
    """A series short enough to draw: per bin its step, mean, least and most."""

    steps: list[float]
    means: list[float | None]
    lows: list[float | None]
    highs: list[float | None]
    size: int
    """Points a bin holds; 1: nothing was averaged."""


def shorten(points: Sequence[Point], most: int = 200) -> Binned:
    """At most `most` bins of equally many points. Values that are not finite count as not measured."""
    size = max(1, math.ceil(len(points) / most))
    binned = Binned([], [], [], [], size)
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part if value is not None and math.isfinite(value)]
        binned.steps.append(sum(step for step, _ in part) / len(part))
        binned.means.append(sum(values) / len(values) if values else None)
        binned.lows.append(min(values) if values else None)
        binned.highs.append(max(values) if values else None)
    return binned


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: `digits` significant ones, thousands apart, a true minus, no needless zeros."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size < ROUNDING:
        return "0"
    if size >= 1e7 or size < 1e-3:
        mantissa, power = f"{size:.{max(0, digits - 2)}e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(power)}"
    else:
        places = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{size:,.{places}f}".replace(",", NARROW)
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if value > 0 else MINUS + text


def percent(value: float | None) -> str:
    """A share as a percentage: whole, but with a decimal below 1 % and above 99 %."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{_whole(value * 100, 1.0)}{NARROW}%"


def points(value: float) -> str:
    """A difference of shares in percentage points: whole from 10 on."""
    return _whole(value * 100, 10.0)


def _whole(value: float, precise: float) -> str:
    """A number of at most 100: a decimal only where it is within `precise` of 0 or 100, and not whole."""
    size = abs(value)
    near = min(size, abs(100 - size)) if precise <= 1 else size
    text = f"{size:.1f}" if near < precise else f"{size:.0f}"
    text = text.removesuffix(".0")
    return text if value >= 0 or text == "0" else MINUS + text


def parameters(count: float | None) -> str:
    """How large a model is: 31 776 parameters, 135 million parameters, 7.2 billion parameters."""
    if not count:
        return "not disclosed"
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{number(count / size)} {name} parameters"
    return f"{number(count, 6)} parameters"


def seconds(value: float) -> str:
    """A duration: 8.2 s, 3 min 05 s, 2 h 10 min."""
    if value < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    rounded = round(value)
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
