"""What to do about one RLHFJob: pure, without I/O or clock. `reconcile` is the one entry; each policy is a file."""

from rlhf_operator.reconcile.job import reconcile
from rlhf_operator.reconcile.outcome import Delete, Event, LiveRead, Observed, Poll, ReconcileResult, Sample
from rlhf_operator.reconcile.settings import Profile, Settings, Tenancy, Timings

__all__ = [
    "Delete",
    "Event",
    "LiveRead",
    "Observed",
    "Poll",
    "Profile",
    "ReconcileResult",
    "Sample",
    "Settings",
    "Tenancy",
    "Timings",
    "reconcile",
]
