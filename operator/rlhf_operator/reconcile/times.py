"""Times as Kubernetes writes them: UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
"""So far from the ends of the calendar that intervals can be added."""


def write(time: datetime) -> str:
    """`2026-01-31T12:00:00Z`."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(text: str) -> datetime:
    """The inverse; fractions of a second are read too. A time without a zone is in UTC; one before or after all that a
    clock can show is the first or last of those.

    Raises:
        ValueError: it is no time.
    """
    if text.startswith("0000"):  # Kubernetes has this year, Python has not
        return FIRST
    time = datetime.fromisoformat(text.upper())
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return min(max(time, FIRST), LAST)


def after(text: str, seconds: float) -> datetime:
    """So many seconds after a written time."""
    return read(text) + timedelta(seconds=seconds)


def until(then: datetime, now: datetime) -> float:
    """Seconds from now; never negative."""
    return max(0.0, (then - now).total_seconds())
