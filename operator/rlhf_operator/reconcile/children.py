"""The objects of an attempt: an immutable ConfigMap, a headless Service where there are several pods, an Indexed Job."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from rlhf_api.job import API_VERSION, KIND
from rlhf_api.stage_file import StageFile
from rlhf_operator.reconcile import naming
from rlhf_operator.reconcile.observe import CONTAINER
from rlhf_operator.reconcile.outcome import Raw
from rlhf_operator.reconcile.pods import Sketch, template
from rlhf_operator.reconcile.stage_files import RENDEZVOUS


def owner(name: str, uid: str) -> Raw:
    """The reference by which a child belongs to its RLHFJob, and goes with it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def config_map(sketch: Sketch, reference: Raw, file: StageFile) -> Raw:
    """Holds stage.json, without defaults; immutable, so that no running gang can be told another story."""
    text = file.model_dump_json(indent=1, exclude_defaults=True)
    metadata = _metadata(sketch, reference)
    metadata["labels"][naming.STAGE_FILE] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": {"stage.json": text},
    }


def service(sketch: Sketch, reference: Raw) -> Raw:
    """Gives the pods names by which they find pod 0, before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(sketch, reference),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {naming.UID: sketch.labels[naming.UID], **_attempt(sketch)},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS, "protocol": "TCP"}],
        },
    }


def job(sketch: Sketch, reference: Raw, labels_of_owner: Mapping[str, str]) -> Raw:
    """The gang. The Job controller never replaces one of its pods: the whole gang is restarted, as another attempt.

    Only exit codes 2 and 3 end it by policy: with 75 there, Jobs that Kueue suspends failed for good.
    """
    kueue = {name: labels_of_owner[name] for name in naming.OF_KUEUE if name in labels_of_owner}
    metadata = _metadata(sketch, reference)
    metadata["labels"] = {**metadata["labels"], **kueue}
    final = {"containerName": CONTAINER, "operator": "In", "values": [2, 3]}
    spec: dict[str, Any] = {
        "completions": sketch.shape.nodes,
        "parallelism": sketch.shape.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
        "podReplacementPolicy": "Failed",
        "template": template(sketch),
    }
    if naming.QUEUE in kueue:
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _metadata(sketch: Sketch, reference: Raw) -> dict[str, Any]:
    return {
        "name": sketch.name,
        "namespace": sketch.job.metadata.namespace or "default",
        "labels": dict(sketch.labels),
        "ownerReferences": [dict(reference)],
    }


def _attempt(sketch: Sketch) -> dict[str, str]:
    return {name: sketch.labels[name] for name in (naming.STAGE, naming.ATTEMPT)}
