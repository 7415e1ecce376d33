"""The objects of an attempt: a headless Service where there are several pods, an Indexed Job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_api.job import API_VERSION, KIND, RLHFJob
from rlhf_operator.reconcile import naming
from rlhf_operator.reconcile.objects.pod_template import AttemptSpec, template
from rlhf_operator.reconcile.objects.stage_file import RENDEZVOUS
from rlhf_operator.reconcile.observed.pods import CONTAINER
from rlhf_operator.reconcile.outcome import Raw


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


def service(owning: RLHFJob, name: str, labels: Mapping[str, str], reference: Raw) -> Raw:
    """Gives the pods names by which they find pod 0, before they are ready."""
    selector = {label: labels[label] for label in (naming.UID, naming.STAGE, naming.ATTEMPT)}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(owning, name, labels, reference),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS, "protocol": "TCP"}],
        },
    }


def job(attempt: AttemptSpec, reference: Raw, labels_of_owner: Mapping[str, str]) -> Raw:
    """The gang. The Job controller never replaces one of its pods: the whole gang is restarted, as another attempt.

    Only exit codes 2 and 3 end it by policy: with 75 there, Jobs that Kueue suspends failed for good.
    """
    kueue = {name: labels_of_owner[name] for name in naming.OF_KUEUE if name in labels_of_owner}
    metadata = _metadata(attempt.job, attempt.name, attempt.labels, reference)
    metadata["labels"] = {**metadata["labels"], **kueue}
    final = {"containerName": CONTAINER, "operator": "In", "values": [2, 3]}
    spec: dict[str, Any] = {
        "completions": attempt.shape.nodes,
        "parallelism": attempt.shape.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
        "podReplacementPolicy": "Failed",
        "template": template(attempt),
    }
    if naming.QUEUE in kueue:
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _metadata(owning: RLHFJob, name: str, labels: Mapping[str, str], reference: Raw) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": owning.metadata.namespace or "default",
        "labels": dict(labels),
        "ownerReferences": [dict(reference)],
    }
