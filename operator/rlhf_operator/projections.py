"""What of each kind of object stays in memory: with ten thousand jobs stored, that is what the process weighs."""

from __future__ import annotations

import orjson

from rlhf_operator.reconcile import naming
from rlhf_operator.reconcile.observed.pods import CONTAINER, METRICS
from rlhf_operator.runtime.decoding import encode
from rlhf_operator.runtime.kinds import Object
from rlhf_operator.runtime.store import FAULT

SELECTOR = f"app.kubernetes.io/managed-by={naming.MANAGED_BY}"
"""Of children; others are never listed."""
_PACKED = "packed"
MOST_PACKED = 2**16
"""Bytes of a job's spec and status that are kept; of a larger job they are read when it is looked at."""
MOST_PACKED_OF_ALL = 3 * 2**25
"""Of all jobs together: a fifth of what the chart lets the operator have."""
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
_LABELS = (
    *(naming.UID, naming.STAGE, naming.ATTEMPT, _COMPLETION_INDEX),
    *naming.OF_KUEUE,
)
MOST_OTHERS = 4
_ANNOTATIONS = (naming.RETRY, _COMPLETION_INDEX)
_MOST_ANNOTATION = 253
"""Characters of an annotation that are kept, and compared."""


def rlhfjob(obj: Object, room: int = MOST_PACKED_OF_ALL) -> Object:
    """An RLHFJob: spec and status as bytes, a fifth of what they weigh as objects; without them where it is large, or
    there is no room for so many bytes."""
    status = obj.get("status") or {}
    packed = encode({"spec": obj.get("spec"), "status": status})
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": _metadata(obj),
        "phase": status.get("phase"),
        _PACKED: packed if len(packed) <= min(MOST_PACKED, room) else None,
    }


def packed_bytes(projection: Object | None) -> int:
    """Size of a job's packed spec and status in bytes; 0: they are not kept."""
    return len((projection or {}).get(_PACKED) or b"")


def is_large(projection: Object) -> bool:
    """Whether a job's spec and status are not kept, because they are large or others' take the room."""
    return _PACKED in projection and projection[_PACKED] is None


def unpacked(projection: Object) -> Object:
    """The RLHFJob as it came, as far as it is used; of a large one its metadata. One that could not be kept says why."""
    if FAULT in projection or is_large(projection):
        return projection
    parts = {name: value for name, value in projection.items() if name not in (_PACKED, "phase")}
    content: Object = orjson.loads(projection[_PACKED])
    return parts | content


def trimmed(obj: Object) -> Object:
    """An RLHFJob as it came, as far as it is used, however large."""
    parts = {name: obj[name] for name in ("apiVersion", "kind")}
    return parts | {"metadata": _metadata(obj), "spec": obj.get("spec"), "status": obj.get("status") or {}}


def job(obj: Object) -> Object:
    """A Job: whether it runs, and how it ended; not its template."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return {
        "metadata": _metadata(obj),
        "spec": {name: spec[name] for name in ("completions", "suspend") if name in spec},
        "status": {name: status[name] for name in ("conditions", "startTime") if name in status},
    }


def pod(obj: Object) -> Object:
    """A pod: where it is, how it does, its memory limit and port."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    containers = [container for container in spec.get("containers") or () if container.get("name") == CONTAINER]
    fields = ("phase", "reason", "message", "podIP", "conditions")
    return {
        "metadata": _metadata(obj),
        "spec": {
            "nodeName": spec.get("nodeName"),
            "containers": [
                {"name": CONTAINER, "resources": _memory(container), "ports": _metrics_port(container)}
                for container in containers
            ],
        },
        "status": {name: status[name] for name in fields if name in status} | _containers(status),
    }


def _containers(status: Object) -> Object:
    """How the trainer's container does, and which others keep it waiting, run beside it, or failed: a few, webhooks may
    add many."""
    containers = status.get("containerStatuses") or ()
    beside = [container for container in containers if container.get("name") != CONTAINER]
    others = [container for container in beside if _matters(container) or "running" in (container.get("state") or {})]
    inits = [container for container in status.get("initContainerStatuses") or () if _matters(container)]
    parts = {
        "containerStatuses": [container for container in containers if container.get("name") == CONTAINER]
        + others[:MOST_OTHERS],
        "initContainerStatuses": inits[:MOST_OTHERS],
    }
    return {name: part for name, part in parts.items() if part}


def _matters(container: Object) -> bool:
    """Whether it waits, or failed."""
    state = container.get("state") or {}
    return "waiting" in state or bool((state.get("terminated") or {}).get("exitCode"))


def _memory(container: Object) -> Object:
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return {} if limit is None else {"limits": {"memory": limit}}


def _metrics_port(container: Object) -> list[Object]:
    return [port for port in container.get("ports") or () if port.get("name") == METRICS][:1]


def bare(obj: Object) -> Object:
    """A Service: that it is there."""
    return {"metadata": _metadata(obj)}


def _metadata(obj: Object) -> Object:
    metadata = obj["metadata"]
    fields = {name: metadata[name] for name in _METADATA if name in metadata}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    parts = {
        "labels": {name: labels[name] for name in _LABELS if name in labels},
        "annotations": {name: annotations[name][:_MOST_ANNOTATION] for name in _ANNOTATIONS if name in annotations},
        "ownerReferences": [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")],
    }
    return fields | {name: part for name, part in parts.items() if part}
