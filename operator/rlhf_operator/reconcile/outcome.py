"""What goes into a reconcile and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from rlhf_operator.reconcile import times

Raw = dict[str, Any]
"""An object of the API server, as it came."""


@dataclass(frozen=True)
class Sample:
    """The last progress that index 0 of a running attempt reported on /progress."""

    stage: str
    attempt: int
    step: int
    total: int
    begun: int | None = None
    """The step that this attempt began from, its checkpoint's; None: not yet, or its image does not tell."""
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    headline: Mapping[str, float] = field(default_factory=dict)
    still: float = 0.0
    """Seconds since the step last changed, as far as the poller saw."""
    show: bool = True
    """Whether it may be written to status now: writes of progress are budgeted."""


@dataclass(frozen=True)
class LiveRead:
    """Something to be read from the API server itself: a cache may lag, or does not hold it."""

    what: Literal["Job", "Claim", "Events", "PodEvents", "Workload"]
    """A Job; a claim; the events of a Job, or of a pod; the workload that Kueue made of a Job."""
    name: str
    """Of the Job, claim or pod."""
    uid: str = field(default="", compare=False)
    """Of a Job or pod that is there."""


@dataclass(frozen=True)
class Observed:
    """What is known of a job's children; strangers of the same name are left out."""

    jobs: tuple[Raw, ...] = ()
    pods: tuple[Raw, ...] = ()
    services: tuple[Raw, ...] = ()
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """By stage."""
    live_reads: Mapping[LiveRead, Raw | None] = field(default_factory=dict)
    """Answers to `ReconcileResult.look`; None: it does not exist. When it holds any, all the rest was read anew as well."""
    claims: Mapping[str, Raw | None] = field(default_factory=dict)
    """Answers for claims, by name, which may be some minutes old; None: it does not exist."""
    explanations: Mapping[LiveRead, str] = field(default_factory=dict)
    """Answers to `ReconcileResult.explain`: the words of Kueue, of the Job controller, or of the kubelet."""
    refusal: str | None = None
    """Why the API server would not have an object made, when that was last tried."""


@dataclass(frozen=True)
class Delete:
    """An object to be deleted, with all it owns; only if it has this UID."""

    kind: Literal["Job", "Service", "RLHFJob"]
    name: str
    uid: str


@dataclass(frozen=True)
class Event:
    """A Kubernetes event to be recorded once, after the status that goes with it was written."""

    reason: str
    note: str
    warning: bool = False


@dataclass(frozen=True)
class Poll:
    """A /progress to be asked now and then; its failures mean nothing."""

    stage: str
    attempt: int
    host: str
    port: int


@dataclass
class ReconcileResult:
    """What to do, in this order; what fails ends it there, and the job is reconciled again.

    1. `look`, if there is any: read these and everything else from the API server and reconcile again. Nothing else
       is done.
    2. `status`, if it differs, by a patch that carries the resourceVersion it was made from: nothing below is done
       for a stale reconcile, an attempt is on record before it can run, and why one ended before it is cleaned up.
    3. `create`, in order: what is there already and has the same owner is as good. An object that is refused leaves out
       those of its name that come after it, and the others go on.
    4. `delete`.
    5. `events`.
    """

    status: Raw = field(default_factory=dict)
    create: list[Raw] = field(default_factory=list)
    delete: list[Delete] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    poll: list[Poll] = field(default_factory=list)
    look: list[LiveRead] = field(default_factory=list)
    explain: list[LiveRead] = field(default_factory=list)
    """What would explain why something waits; asked at a bounded rate, and the answer is not waited for."""
    requeue: float | None = None
    """Seconds after which time alone may change something."""

    def wake(self, then: datetime, now: datetime) -> None:
        """Reconcile again at `then`, or before."""
        seconds = times.until(then, now)
        self.requeue = seconds if self.requeue is None else min(self.requeue, seconds)
