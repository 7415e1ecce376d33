"""The reader pod, as it is asked for."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
from kubernetes import client

from fakes.cluster_jobs import INVALID, RUNNING, job
from rlhf_sdk.cluster import reader_pod
from rlhf_sdk.cluster.signals import Ending
from rlhf_sdk.exits import CommandError


def spec(**more: Any) -> dict[str, Any]:
    pod_spec: dict[str, Any] = reader_pod.manifest(job(RUNNING, **more), "rlhf-reader-1", None)["spec"]
    return pod_spec


def test_it_keeps_to_the_restricted_standard_and_cannot_write() -> None:
    (container,) = spec()["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec()["securityContext"]["runAsNonRoot"] is True
    assert spec()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec()["automountServiceAccountToken"] is False
    assert [mount["readOnly"] for mount in container["volumeMounts"]] == [True]
    assert {"cpu", "memory"} == set(container["resources"]["limits"]) == set(container["resources"]["requests"])


def test_it_is_a_pod_that_kubernetes_knows() -> None:
    built = reader_pod.manifest(job(RUNNING), "rlhf-reader-1", {"nodeName": "n1", "tolerations": [{"key": "gpu"}]})
    api = client.ApiClient()
    assert api.sanitize_for_serialization(api.deserialize(json.dumps(built), "V1Pod", "application/json")) == built


def test_it_is_no_pod_of_the_job_but_goes_with_it() -> None:
    metadata = reader_pod.manifest(job(RUNNING), "rlhf-reader-1", None)["metadata"]
    assert not any(label.startswith("rlhf.dev/") for label in metadata["labels"])
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner.get("controller")) == ("RLHFJob", "beaver", None)


def test_it_mounts_the_jobs_storage_where_the_trainer_has_it() -> None:
    assert spec()["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models"}
    assert spec()["containers"][0]["volumeMounts"][0]["subPath"] == "team"
    assert "subPath" not in spec(storage={"claimName": "models"})["containers"][0]["volumeMounts"][0]
    built = spec(storage={"claimTemplate": {"accessModes": ["ReadWriteMany"], "size": "1Gi"}})
    assert built["volumes"][0]["persistentVolumeClaim"] == {"claimName": "beaver-storage"}


@pytest.mark.parametrize("profile", ["[" * 5000, "[]", "{", '"image"'])
def test_a_profile_that_is_none_is_refused(profile: str) -> None:
    status = {**RUNNING, "profiles": {"cpu": profile}}
    with pytest.raises(CommandError, match=r"beaver: status\.profiles holds a profile that is no JSON object"):
        reader_pod.manifest(job(status), "rlhf-reader-1", None)


def test_it_runs_as_prepare_did() -> None:
    built = spec(
        pod={"serviceAccountName": "team", "imagePullSecrets": ["mine", "pull"], "nodeSelector": {"gpu": "yes"}}
    )
    assert built["containers"][0]["image"] == "registry.example/trainer@sha256:00"
    assert built["imagePullSecrets"] == [{"name": "pull"}, {"name": "mine"}]
    assert built["serviceAccountName"] == "team"
    assert built["securityContext"]["supplementalGroups"] == [4000]
    assert "nodeSelector" not in built, "the job's leads to accelerators"


def test_it_stands_beside_a_pod_that_holds_the_claim_for_its_node() -> None:
    beside = {"nodeName": "gpu-7", "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}
    built = reader_pod.manifest(job(RUNNING), "rlhf-reader-1", beside)["spec"]
    (term,) = built["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchFields"][0]["values"] == ["gpu-7"]
    assert beside["tolerations"][0] in built["tolerations"]


def test_there_is_nothing_to_read_of_a_job_that_has_not_begun() -> None:
    with pytest.raises(CommandError, match=r"beaver: nothing of it has begun \(Invalid\)"):
        reader_pod.manifest(job(INVALID), "rlhf-reader-1", None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Pending"}, (False, "Pending")),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}]},
            (False, "Unschedulable: no"),
        ),
        (
            {
                "containerStatuses": [
                    {"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": "x"}}}
                ]
            },
            (False, "ErrImagePull: x"),
        ),
        ({"containerStatuses": [{"name": "trainer", "state": {"running": {}}}]}, (True, "")),
        ({"containerStatuses": [{"name": "trainer", "state": {"terminated": {}}}]}, (True, "")),
        ({"containerStatuses": [{"name": "istio", "state": {"running": {}}}], "phase": "Pending"}, (False, "Pending")),
    ],
)
def test_why_a_pod_has_not_started(status: dict[str, Any], expected: tuple[bool, str]) -> None:
    assert reader_pod.state_of({"metadata": {}, "status": status}) == expected


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_a_signal_waits_for_what_must_not_be_broken_off(number: int, raised: type[BaseException]) -> None:
    done = []
    with pytest.raises(raised), Ending() as ending, ending.deferred():
        os.kill(os.getpid(), number)
        done.append("held")
    assert done == ["held"]
    with pytest.raises(raised), Ending():
        os.kill(os.getpid(), number)
        done.append("not held")
    assert done == ["held"]
