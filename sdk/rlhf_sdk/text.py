"""Numbers, times and sizes as people read them."""

from __future__ import annotations

import math
import re

HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""What a terminal obeys instead of showing, or what makes text look like another: control characters but for tabs and
line ends, direction marks, what has no width."""


def visible(text: str) -> str:
    """A text with such characters written out: `\\x1b`, `\\u202e`. Whoever wrote it, it can be shown."""
    return HARMFUL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `3:02:11`, `2d 03:00`."""
    total = max(0, int(seconds + 0.5))
    days, rest = divmod(total, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, remainder = divmod(rest, 60)
    if days:
        return f"{days}d {hours:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{remainder:02d}" if hours else f"{minutes}:{remainder:02d}"


def number(value: float) -> str:
    """About three significant digits: `0.0123`, `2.31`, `184`, `1.2e-05`."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:.{digits}f}"


def size(count: float) -> str:
    """`0 B`, `512 B`, `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def plural(count: int, singular: str, many: str | None = None) -> str:
    """`1 product`, `3 products`."""
    return f"{count} {singular if count == 1 else many or singular + 's'}"
