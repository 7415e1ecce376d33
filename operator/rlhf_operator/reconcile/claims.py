"""Where work and products live: the claim, and what its access mode allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rlhf_api.errors import Finding
from rlhf_api.job import RLHFJob
from rlhf_api.sources import parse_source
from rlhf_operator.reconcile import naming
from rlhf_operator.reconcile.outcome import Raw

SHARED, ONE_NODE, ONE_POD = "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"


def findings(job: RLHFJob) -> Iterator[Finding]:
    """What a cluster cannot do that a laptop can, relative to `spec`."""
    if job.spec.storage is None:
        yield Finding(("storage",), "is missing; on a cluster work and products need a claim", "give a claimName")
    for index, entry in enumerate(job.spec.inputs):
        if parse_source(entry.source).kind == "path":
            message = f"found the path {entry.source}; paths work with the local runner only"
            yield Finding(("inputs", index, "source"), message, "use pvc://claim/path")


def claim_name(job: RLHFJob) -> str:
    """The claim: the job's, or the one made from its template.

    Raises:
        ValueError: the job has no storage; `findings` says so.
    """
    storage = job.spec.storage
    if storage is None:
        raise ValueError("the job has no storage")
    return storage.claim_name or naming.claim(job.metadata.name)


def claim(job: RLHFJob, owner: Raw) -> Raw | None:
    """The claim to be made from the job's template, if it has one. It outlives the job unless told otherwise."""
    template = None if job.spec.storage is None else job.spec.storage.claim_template
    if template is None:
        return None
    spec: dict[str, Any] = {
        "accessModes": list(template.access_modes),
        "resources": {"requests": {"storage": template.size}},
    }
    if template.storage_class_name is not None:
        spec["storageClassName"] = template.storage_class_name
    metadata: dict[str, Any] = {
        "name": claim_name(job),
        "namespace": job.metadata.namespace or "default",
        "labels": {"app.kubernetes.io/managed-by": naming.MANAGED_BY, naming.JOB: naming.label(job.metadata.name)},
    }
    if template.delete_with_job:
        metadata["ownerReferences"] = [owner]
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def modes(claim: Raw) -> Sequence[str]:
    """Access modes of a claim: those it was bound with, or asks for."""
    access_modes = (claim.get("status") or {}).get("accessModes") or (claim.get("spec") or {}).get("accessModes") or ()
    return tuple(str(mode) for mode in access_modes)


def one_node(access: Sequence[str]) -> bool:
    """Whether pods that share the claim must share a node."""
    return bool(access) and SHARED not in access
