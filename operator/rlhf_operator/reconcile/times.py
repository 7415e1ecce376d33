"""Times as Kubernetes writes them: UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def write(time: datetime) -> str:
    """`2026-01-31T12:00:00Z`."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(text: str) -> datetime:
    """The inverse; fractions of a second are read too.

    Raises:
        ValueError: it is no time.
    """
    return datetime.fromisoformat(text)


def after(text: str, seconds: float) -> datetime:
    """So many seconds after a written time."""
    return read(text) + timedelta(seconds=seconds)


def until(then: datetime, now: datetime) -> float:
    """Seconds from now; never negative."""
    return max(0.0, (then - now).total_seconds())
