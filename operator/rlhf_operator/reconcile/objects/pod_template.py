"""The pod template of an attempt. Keeps to the `restricted` Pod Security Standard, whatever the job asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf_api import contract
from rlhf_api.contract import CLAIMS_PATH, OFFLINE, STAGE_FILE_PATH, STORAGE_PATH, TERMINATION_PATH
from rlhf_api.job import RLHFJob
from rlhf_api.kubernetes import written
from rlhf_api.sources import parse_source
from rlhf_api.stage_file import StageFile
from rlhf_api.stages.judges import token_keys
from rlhf_operator.reconcile import claims, naming
from rlhf_operator.reconcile.observed.pods import CONTAINER, METRICS
from rlhf_operator.reconcile.profiles import Shape
from rlhf_operator.reconcile.settings import Settings


@dataclass(frozen=True)
class AttemptSpec:
    """What a pod template is drawn from."""

    job: RLHFJob
    settings: Settings
    shape: Shape
    name: str
    """Of the attempt's objects."""
    file: StageFile
    labels: dict[str, str]
    prepare: bool
    together: bool
    """Whether all pods must share a node, because they share a claim that only one node may mount."""
    avoid: tuple[str, ...] = ()
    """Nodes that refused or lost the last attempts: others are preferred."""


def template(attempt: AttemptSpec) -> dict[str, Any]:
    """The Job's `spec.template`."""
    pod, timings = attempt.shape.pod, attempt.settings.timings
    group = pod.fs_group or attempt.settings.fs_group
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": timings.grace + timings.grace_margin,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **({} if group is None else {"fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"}),
        },
        "containers": [_container(attempt)],
        "volumes": [*_volumes(attempt), *(written(volume) for volume in pod.volumes)],
    }
    if attempt.shape.nodes > 1:
        spec["subdomain"] = attempt.name
    optional = {
        "nodeSelector": pod.node_selector,
        "tolerations": [written(toleration) for toleration in pod.tolerations],
        "affinity": _affinity(attempt),
        "priorityClassName": pod.priority_class_name,
        "serviceAccountName": pod.service_account_name,
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "runtimeClassName": pod.runtime_class_name,
    }
    spec |= {name: value for name, value in optional.items() if value}
    metadata = {
        "labels": {**pod.labels, **attempt.labels},
        "annotations": {**pod.annotations, naming.STAGE_FILE: attempt.file.text},
    }
    return {"metadata": metadata, "spec": spec}


def _container(attempt: AttemptSpec) -> dict[str, Any]:
    shape = attempt.shape
    resources = {"requests": shape.resources.requests, "limits": shape.resources.limits}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": shape.image,
        "command": ["python", "-m", "rlhf_trainer.launch", f"{STAGE_FILE_PATH}/stage.json"],
        "env": _env(attempt),
        "ports": [{"name": METRICS, "containerPort": attempt.settings.metrics_port, "protocol": "TCP"}],
        "resources": {name: dict(value) for name, value in resources.items() if value},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": TERMINATION_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*_mounts(attempt), *(written(mount) for mount in shape.pod.volume_mounts)],
    }
    credentials = attempt.job.spec.credentials
    if attempt.prepare and credentials is not None:
        container["envFrom"] = [{"secretRef": {"name": credentials.secret_name}}]
    elif credentials is not None:
        container["env"] += [
            {"name": key, "valueFrom": {"secretKeyRef": {"name": credentials.secret_name, "key": key}}}
            for stage in attempt.job.spec.stages
            if stage.name == attempt.file.stage
            for key in token_keys(stage.spec)
        ]
    return container


def _env(attempt: AttemptSpec) -> list[dict[str, Any]]:
    env = {
        "HOME": "/tmp",  # noqa: S108 - the pod's own emptyDir: the root file system is read-only
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        **{variable.name: variable.value for variable in attempt.shape.pod.env},
        contract.GRACE_SECONDS: str(attempt.settings.timings.grace),
        contract.IMAGE: attempt.shape.image,
    }
    if attempt.job.spec.run_policy.keep != "everything":
        env[contract.FREE_WORK] = "1"
    if attempt.prepare:
        env[contract.CLAIMS] = CLAIMS_PATH
    else:
        env |= OFFLINE
    return [{"name": name, "value": value} for name, value in env.items()]


def _volumes(attempt: AttemptSpec) -> list[dict[str, Any]]:
    shared = {"medium": "Memory", "sizeLimit": attempt.shape.shared_memory}
    volumes: list[dict[str, Any]] = [
        _stage_file(),
        {"name": "rlhf-tmp", "emptyDir": {}},
        {"name": "rlhf-shm", "emptyDir": shared},
        {"name": "rlhf-storage", "persistentVolumeClaim": {"claimName": claims.claim_name(attempt.job)}},
    ]
    for index, claim in enumerate(_input_claims(attempt)):
        volumes.append({"name": f"rlhf-claim-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes


def _stage_file() -> dict[str, Any]:
    """Shows the annotation that holds stage.json as a file: the Job is the one object that an attempt is made of."""
    item = {"path": "stage.json", "fieldRef": {"fieldPath": f"metadata.annotations['{naming.STAGE_FILE}']"}}
    return {"name": "rlhf-stage", "downwardAPI": {"items": [item]}}


def _mounts(attempt: AttemptSpec) -> list[dict[str, Any]]:
    sub_path = None if attempt.job.spec.storage is None else attempt.job.spec.storage.path
    mounts: list[dict[str, Any]] = [
        {"name": "rlhf-stage", "mountPath": STAGE_FILE_PATH, "readOnly": True},
        {"name": "rlhf-tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
        {"name": "rlhf-shm", "mountPath": "/dev/shm"},  # noqa: S108 - what torch's workers share
        {"name": "rlhf-storage", "mountPath": STORAGE_PATH, **({"subPath": sub_path} if sub_path else {})},
    ]
    for index, claim in enumerate(_input_claims(attempt)):
        mounts.append({"name": f"rlhf-claim-{index}", "mountPath": f"{CLAIMS_PATH}/{claim}", "readOnly": True})
    return mounts


def _input_claims(attempt: AttemptSpec) -> list[str]:
    """Claims that inputs name: prepare reads them, and copies what it reads to the storage."""
    if not attempt.prepare:
        return []
    sources = [parse_source(entry.source) for entry in attempt.job.spec.inputs]
    return sorted({source.location for source in sources if source.kind == "claim"})


def _affinity(attempt: AttemptSpec) -> dict[str, Any] | None:
    affinity = attempt.shape.pod.affinity
    fields = {} if affinity is None else dict(written(affinity))
    if attempt.together and attempt.shape.nodes > 1:
        term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": dict(attempt.labels)}}
        fields["podAffinity"] = _added(
            fields.get("podAffinity"), "requiredDuringSchedulingIgnoredDuringExecution", term
        )
    for node in attempt.avoid:
        name = {"key": "metadata.name", "operator": "NotIn", "values": [node]}
        preference: dict[str, Any] = {"weight": 100, "preference": {"matchFields": [name]}}
        fields["nodeAffinity"] = _added(
            fields.get("nodeAffinity"), "preferredDuringSchedulingIgnoredDuringExecution", preference
        )
    return fields or None


def _added(affinity: dict[str, Any] | None, field: str, term: dict[str, Any]) -> dict[str, Any]:
    return {**(affinity or {}), field: [*((affinity or {}).get(field) or []), term]}
