"""A finished job: nothing is made any more; after ttlSecondsAfterFinished its children go, itself only if asked."""

from __future__ import annotations

from datetime import datetime

from rlhf_operator.reconcile import times
from rlhf_operator.reconcile.outcome import Delete, Observed, Raw, ReconcileResult
from rlhf_operator.reconcile.policy.cleanup import outlived

FINISHED = ("Complete", "Failed", "Succeeded")
"""Phases that are for good, but for a retry. `Succeeded` is what jobs stored by 0.1 say for `Complete`."""


def after(raw: Raw, children: Observed, now: datetime) -> ReconcileResult:
    """What is still to do about a finished job. It is read raw: of ten thousand stored jobs most are finished."""
    status = raw["status"]
    out = ReconcileResult(status=dict(status))
    generation = raw["metadata"].get("generation")
    if generation is not None:
        out.status["observedGeneration"] = generation
    out.delete += outlived(children.jobs)
    spec = raw.get("spec") or {}
    seconds = spec.get("ttlSecondsAfterFinished")
    if seconds is None or "completionTime" not in status:
        return out
    end = times.after(status["completionTime"], seconds)
    if end > now:
        out.wake(end, now)
        return out
    if (spec.get("runPolicy") or {}).get("deleteAfterFinished"):
        out.delete.append(Delete("RLHFJob", raw["metadata"]["name"], raw["metadata"]["uid"]))
        return out
    going = {deletion.uid for deletion in out.delete}
    for kind, objects in (("Job", children.jobs), ("Service", children.services)):
        out.delete += [
            Delete(kind, child["metadata"]["name"], child["metadata"]["uid"])  # type: ignore[arg-type]  # the literals above
            for child in objects
            if "deletionTimestamp" not in child["metadata"] and child["metadata"]["uid"] not in going
        ]
    return out
