"""What of each kind of object stays in memory: with ten thousand jobs stored, that is what the process weighs."""

from __future__ import annotations

import orjson

from rlhf_operator.reconcile import naming
from rlhf_operator.reconcile.observe import CONTAINER
from rlhf_operator.runtime.decoding import encode
from rlhf_operator.runtime.kinds import Object
from rlhf_operator.runtime.store import FAULT

SELECTOR = f"app.kubernetes.io/managed-by={naming.MANAGED_BY}"
"""Of children; others are never listed."""
_PACKED = "packed"
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "labels",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
)
_KEPT_ANNOTATIONS = (naming.RETRY, "batch.kubernetes.io/job-completion-index")


def rlhfjob(thing: Object) -> Object:
    """An RLHFJob: spec and status as bytes, a fifth of what they weigh as objects."""
    status = thing.get("status") or {}
    return {
        "apiVersion": thing["apiVersion"],
        "kind": thing["kind"],
        "metadata": _metadata(thing),
        "phase": status.get("phase"),
        _PACKED: encode({"spec": thing.get("spec"), "status": status}),
    }


def unpacked(kept: Object) -> Object:
    """The RLHFJob as it came, as far as it is used; one that could not be kept is its metadata, and says why."""
    if FAULT in kept:
        return kept
    whole = {name: value for name, value in kept.items() if name not in (_PACKED, "phase")}
    content: Object = orjson.loads(kept[_PACKED])
    return whole | content


def job(thing: Object) -> Object:
    """A Job: whether it runs, and how it ended; not its template."""
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    return {
        "metadata": _metadata(thing),
        "spec": {name: spec[name] for name in ("completions", "suspend") if name in spec},
        "status": {name: status[name] for name in ("conditions", "startTime") if name in status},
    }


def pod(thing: Object) -> Object:
    """A pod: where it is, how it does, its memory limit and port."""
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    containers = [one for one in spec.get("containers") or () if one.get("name") == CONTAINER]
    kept = ("phase", "reason", "message", "podIP", "conditions", "containerStatuses")
    return {
        "metadata": _metadata(thing),
        "spec": {
            "nodeName": spec.get("nodeName"),
            "containers": [
                {"name": CONTAINER, "resources": one.get("resources") or {}, "ports": one.get("ports") or []}
                for one in containers
            ],
        },
        "status": {name: status[name] for name in kept if name in status},
    }


def bare(thing: Object) -> Object:
    """A ConfigMap or Service: that it is there."""
    return {"metadata": _metadata(thing)}


def _metadata(thing: Object) -> Object:
    metadata = thing["metadata"]
    kept = {name: metadata[name] for name in _METADATA if name in metadata}
    annotations = metadata.get("annotations") or {}
    found = {name: annotations[name] for name in _KEPT_ANNOTATIONS if name in annotations}
    return kept | ({"annotations": found} if found else {})
