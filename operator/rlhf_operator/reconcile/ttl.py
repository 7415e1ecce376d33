"""A finished job: nothing is made any more; after ttlSecondsAfterFinished its children go, itself only if asked."""

from __future__ import annotations

from datetime import datetime

from rlhf_api.status import JobStatus
from rlhf_operator.reconcile import times
from rlhf_operator.reconcile.outcome import Children, Delete, Outcome, Raw


def finished(status: JobStatus) -> bool:
    """Whether the job is complete or failed, for good."""
    return status.phase in ("Succeeded", "Failed")


def after(raw: Raw, status: JobStatus, children: Children, now: datetime) -> Outcome:
    """What is still to do about a finished job. Its spec is read raw: it need not be planned for this."""
    out = Outcome(status=dict(raw.get("status") or {}))
    generation = raw["metadata"].get("generation")
    if generation is not None:
        out.status["observedGeneration"] = generation
    spec = raw.get("spec") or {}
    seconds = spec.get("ttlSecondsAfterFinished")
    if seconds is None or status.completion_time is None:
        return out
    end = times.after(status.completion_time, seconds)
    if end > now:
        out.wake(end, now)
        return out
    if (spec.get("runPolicy") or {}).get("deleteAfterFinished"):
        out.delete.append(Delete("RLHFJob", raw["metadata"]["name"], raw["metadata"]["uid"]))
        return out
    for kind, objects in (
        ("Job", children.jobs),
        ("Service", children.services),
        ("ConfigMap", children.config_maps),
    ):
        out.delete += [
            Delete(kind, one["metadata"]["name"], one["metadata"]["uid"])  # type: ignore[arg-type]  # the literals above
            for one in objects
            if "deletionTimestamp" not in one["metadata"]
        ]
    return out
