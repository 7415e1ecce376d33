"""Fields that are as Kubernetes has them: all of each object is taken, and reaches the pod as it was written."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_api.errors import SpecError
from rlhf_api.kubernetes import Affinity, KubernetesModel, Toleration, written
from rlhf_api.load import parse_job
from rlhf_api.pods import Pod
from rlhf_api.volumes import VOLUME_TYPES, Volume, VolumeMount
from rlhf_operator.reconcile.profiles import merged

SELECTOR = {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["c", "c"]}]}
NODES = {
    "matchExpressions": [{"key": "example.com/zone", "operator": "Gt", "values": ["3"]}],
    "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1.example.com"]}],
}
PODS = {
    "labelSelector": SELECTOR,
    "namespaceSelector": {},
    "namespaces": ["team-a"],
    "topologyKey": "kubernetes.io/hostname",
    "matchLabelKeys": ["job-name"],
    "mismatchLabelKeys": ["tenant"],
}
REQUIRED, PREFERRED = (f"{word}DuringSchedulingIgnoredDuringExecution" for word in ("required", "preferred"))
NEAR = {REQUIRED: [PODS], PREFERRED: [{"weight": 100, "podAffinityTerm": PODS}]}
AFFINITY = {
    "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [NODES]}, PREFERRED: [{"weight": 1, "preference": NODES}]},
    "podAffinity": NEAR,
    "podAntiAffinity": NEAR,
}
TOLERATION = {"key": "a/b", "operator": "Equal", "value": "c", "effect": "NoExecute", "tolerationSeconds": 30}
ITEMS = [{"key": "a", "path": "b/c", "mode": 0o400}]
FILES = [
    {"path": "labels", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}, "mode": 0o444},
    {"path": "cpu", "resourceFieldRef": {"containerName": "trainer", "resource": "limits.cpu", "divisor": "1m"}},
]
CLAIM = {
    "accessModes": ["ReadWriteOnce"],
    "dataSource": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "a"},
    "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "a", "namespace": "b"},
    "resources": {"requests": {"storage": "1Gi"}},
    "storageClassName": "fast",
    "volumeAttributesClassName": "gold",
    "volumeMode": "Filesystem",
}
VOLUMES: dict[str, dict[str, Any]] = {
    "configMap": {"name": "a", "items": ITEMS, "defaultMode": 420, "optional": True},
    "csi": {
        "driver": "secrets-store.csi.k8s.io",
        "fsType": "ext4",
        "nodePublishSecretRef": {"name": "a"},
        "readOnly": True,
        "volumeAttributes": {"secretProviderClass": "a"},
    },
    "downwardAPI": {"items": FILES, "defaultMode": 420},
    "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"},
    "ephemeral": {
        "volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": CLAIM}
    },
    "persistentVolumeClaim": {"claimName": "a", "readOnly": True},
    "projected": {
        "sources": [
            {"clusterTrustBundle": {"name": "a", "path": "ca.pem", "optional": True}},
            {"configMap": {"name": "a", "items": ITEMS, "optional": False}},
            {"downwardAPI": {"items": FILES}},
            {"secret": {"name": "a", "items": ITEMS, "optional": True}},
        ],
        "defaultMode": 256,
    },
    "secret": {"secretName": "a", "items": ITEMS, "defaultMode": 256, "optional": False},
}
MOUNT = {
    "name": "a",
    "mountPath": "/a",
    "subPath": "b",
    "readOnly": True,
    "recursiveReadOnly": "IfPossible",
    "mountPropagation": "HostToContainer",
}


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Affinity, AFFINITY),
        (Toleration, TOLERATION),
        (VolumeMount, MOUNT),
        (VolumeMount, {"name": "a", "mountPath": "/a", "subPathExpr": "$(POD)"}),
        *((Volume, {"name": "a", kind: value}) for kind, value in VOLUMES.items()),
        *((Volume, {"name": "a", kind: {}}) for kind in ("emptyDir", "projected", "downwardAPI")),
    ],
)
def test_what_is_given_reaches_the_pod_as_it_was_written(model: type[KubernetesModel], value: dict[str, Any]) -> None:
    assert written(model.model_validate(value)) == value


def test_every_volume_type_is_tried() -> None:
    assert set(VOLUMES) == set(VOLUME_TYPES)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("field", ["affinity", "tolerations", "volumes", "volumeMounts"])
@pytest.mark.parametrize("depth", [2, 260, 1100])
def test_no_object_of_a_pod_nests_without_end(field: str, depth: int) -> None:
    deep = nested(depth)
    job = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "a"},
        "spec": {"stages": [{"name": "r", "report": {}}], "pod": {field: deep if field == "affinity" else [deep]}},
    }
    with pytest.raises(SpecError) as caught:
        parse_job(job)
    at = f"spec.pod.{field}.a" if field == "affinity" else f"spec.pod.{field}[0].a"
    assert any(problem.path.startswith(at) for problem in caught.value.problems)


def test_a_stage_refines_lists_by_name_and_mount_path() -> None:
    def pod(**fields: Any) -> Pod:
        return Pod.model_validate(fields)

    toleration = {"key": "gpu", "operator": "Exists"}
    platform = pod(tolerations=[toleration], volumes=[{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}])
    job = pod(tolerations=[toleration], volumes=[{"name": "b", "secret": {"secretName": "s"}}])
    both = merged(platform, job)
    assert [written(entry) for entry in both.tolerations] == [toleration]
    assert [written(entry) for entry in both.volumes] == [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "secret": {"secretName": "s"}},
    ]
