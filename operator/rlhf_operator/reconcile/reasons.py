"""Every reason the operator gives in conditions, stages, attempts and events: one list."""

from __future__ import annotations

from typing import Final

from rlhf_api import contract, faults

# Of the job: conditions
ACCEPTED: Final = "Accepted"
RUNNING: Final = "Running"
COMPLETE: Final = "Complete"
SUSPENDED: Final = faults.SUSPENDED.reason
SUSPENDING: Final = "Suspending"
RESUMED: Final = "Resumed"
RETRIED: Final = "Retried"
NOT_SUSPENDED: Final = "NotSuspended"
NOT_FINISHED: Final = "NotFinished"
NOT_STALLED: Final = "NotStalled"
FAILED: Final = "Failed"
STAGE_FAILED: Final = "StageFailed"
INVALID_SPEC: Final = "InvalidSpec"
INVALID_OVERRIDE: Final = "InvalidOverride"
FORBIDDEN: Final = "Forbidden"
CREATE_FAILED: Final = "CreateFailed"
UNKNOWN_PLAN: Final = "UnknownPlanVersion"
UNKNOWN_STATUS: Final = "UnknownStatus"
RECONCILE_ERROR: Final = "ReconcileError"
INTERNAL_ERROR: Final = "InternalError"

# Of events about stages
STAGE_COMPLETE: Final = "StageComplete"
STAGE_REUSED: Final = "StageReused"
STAGE_RESTARTED: Final = "StageRestarted"

# Why the operator itself ends an attempt
SIBLING_FAILED: Final = faults.SIBLING.reason
DEADLINE: Final = faults.DEADLINE.reason
PENDING_TIMEOUT: Final = faults.PENDING.reason
STUCK: Final = faults.STUCK.reason

# What befell an attempt from outside
JOB_DELETED: Final = faults.JOB_DELETED.reason
LOST_RESULT: Final = faults.LOST_RESULT.reason
STOPPED: Final = contract.STOPPED_ON_REQUEST

# A trainer's own word for ranks that were killed because they did not stop in time
GRACE_EXCEEDED: Final = contract.GRACE_EXCEEDED

# A trainer's own word for a checkpoint of another number of ranks
WORLD_SIZE_CHANGED: Final = contract.WORLD_SIZE_CHANGED

# How a trainer's container ended, where it did not say so itself
NO_RESULT: Final = "NoResult"

# Why a stage waits
RESTARTING: Final = "Restarting"
QUEUED: Final = "Queued"
PREEMPTED: Final = "Preempted"
PENDING: Final = "Pending"
NO_PODS: Final = "NoPods"
STARTING: Final = "Starting"
STORAGE_TAKEN: Final = "StorageTaken"
REUSED: Final = contract.REUSED

STOPS: Final = frozenset({SUSPENDED, SIBLING_FAILED})
"""The operator ends an attempt that did nothing wrong: it ends Stopped."""
INTENTS: Final = STOPS | {DEADLINE, PENDING_TIMEOUT, STUCK}
"""Written to an attempt before its Job is deleted; never taken back, so that whoever comes next goes on with it."""
DISRUPTIONS: Final = frozenset(fault.reason for fault in faults.FAULTS if fault.then == "Disrupted")
"""Written to an attempt when seen: the pod that shows it may be gone when the attempt ends."""
