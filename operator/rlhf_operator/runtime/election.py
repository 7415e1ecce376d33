"""Who leads: the rules, without I/O or clock.

As client-go's: a candidate goes by its own monotonic clock alone, from when it saw the Lease change last; the times
written in the Lease are for people. A leader counts its lease from before it asked for it, and stops at `deadline`,
well before any other may begin at `duration`: two never lead at once, however slow the answers, as long as clocks do
not run apart by half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlhf_operator.runtime.kinds import Object, version_of


@dataclass(frozen=True)
class Timing:
    """Seconds: others wait `duration`, the leader stops `deadline` after its last renewal, tries are `retry` apart."""

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.deadline < self.duration:
            values = f"retry {self.retry}, deadline {self.deadline}, duration {self.duration}"
            raise ValueError(f"found {values}; expected each to be longer than the one before, and above 0")


@dataclass(frozen=True)
class Record:
    """What a Lease says."""

    holder: str
    duration: float
    acquired: str
    renewed: str
    transitions: int
    version: str

    @classmethod
    def of(cls, lease: Object) -> Record:
        """Read a Lease; fields that are missing count as nobody's."""
        spec: dict[str, Any] = lease.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration=float(spec.get("leaseDurationSeconds") or 0),
            acquired=spec.get("acquireTime") or "",
            renewed=spec.get("renewTime") or "",
            transitions=int(spec.get("leaseTransitions") or 0),
            version=version_of(lease),
        )

    @property
    def claim(self) -> tuple[str, str, str, int]:
        """What changes with each renewal; another's label on the Lease renews nothing."""
        return self.holder, self.acquired, self.renewed, self.transitions


class Election:
    """What one candidate knows. Times are monotonic seconds."""

    def __init__(self, identity: str, timing: Timing) -> None:
        self.identity = identity
        self.timing = timing
        self.record: Record | None = None
        self.stale = True
        """Whether the Lease must be read before it is written."""
        self._seen_at = -math.inf
        self._held_from: float | None = None

    def saw(self, record: Record | None, now: float) -> None:
        """The Lease as it was read (None: there is none)."""
        claim = None if record is None else record.claim
        if claim != (None if self.record is None else self.record.claim):  # a Lease that was deleted has a holder still
            self._seen_at = now
        self.record, self.stale = record, False
        if record is None or record.holder != self.identity:
            self._held_from = None

    def may_take(self, now: float) -> bool:
        """Whether to write the Lease: it is ours, or nobody's, or its holder has been silent for its duration.

        One that was there and is not is treated as held: who held it may not know yet.
        """
        record = self.record
        if record is not None and record.holder in ("", self.identity):
            return True
        duration = 0.0 if record is None else record.duration
        return now >= self._seen_at + max(duration, self.timing.duration)

    def wrote(self, record: Record, sent_at: float) -> None:
        """The Lease was written for us; `asked` is from before the request was sent."""
        self.record, self.stale = record, False
        self._seen_at = sent_at
        self._held_from = sent_at

    def failed(self) -> None:
        """A write did not succeed, or may have: what the Lease says is not known."""
        self.stale = True

    def gave_up(self) -> None:
        """We do not lead any more, of our own will."""
        self._held_from = None

    @property
    def held_until(self) -> float | None:
        """When leading ends if the Lease is not renewed; None: we do not lead."""
        held_from = self._held_from  # read once: other threads ask
        return None if held_from is None else held_from + self.timing.deadline

    def leads(self, now: float) -> bool:
        """Whether we may write, now."""
        until = self.held_until
        return until is not None and now < until

    def spec(self, wall: str) -> dict[str, Any]:
        """The Lease's spec to write; `wall` is the time of day, for people."""
        record = self.record
        ours = record is not None and record.holder == self.identity
        before = 0 if record is None else record.transitions
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self.timing.duration)),
            "acquireTime": record.acquired if ours and record is not None else wall,
            "renewTime": wall,
            "leaseTransitions": before if ours or record is None else before + 1,
        }
