"""The reader pod: short-lived, restricted, read-only, made with the user's own rights; and a job's own pods."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlhf_api import names
from rlhf_api.contract import STORAGE_PATH
from rlhf_api.job import API_VERSION, KIND
from rlhf_sdk.cluster.jobs import ClusterJob
from rlhf_sdk.cluster.kubectl import FIELD_MANAGER, Kubectl, Refused
from rlhf_sdk.cluster.reader import Reader
from rlhf_sdk.cluster.signals import Ending
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import complain

CONTAINER = "reader"
START_SECONDS = 900
"""The node may have to fetch the trainer's image, which is large."""
IDLE_SECONDS = 300
WAIT = f"""\
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
used = time.monotonic()
while time.monotonic() - used < {IDLE_SECONDS}:
    if sum(name.isdigit() for name in os.listdir("/proc")) > 1:
        used = time.monotonic()
    time.sleep(1)
"""
"""What the pod does by itself: it ends when nobody reads any more, should this command be killed."""
_SHARED = ("ReadWriteMany", "ReadOnlyMany")
_HOPELESS = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


@contextmanager
def reader(kubectl: Kubectl, job: ClusterJob) -> Iterator[Reader]:
    """A pod that mounts the job's storage, for the time of a block; it is deleted whatever happens.

    Raises:
        CommandError: the job has not begun, or the pod cannot be made or does not start.
    """
    name = f"rlhf-reader-{secrets.token_hex(4)}"
    profile_of(job)  # a job that has begun has a claim to look for
    pod = manifest(job, name, node_of(kubectl, job))
    with Ending() as ending:
        try:
            with ending.deferred():
                kubectl.run("create", "--filename=-", stdin=json.dumps(pod).encode(), alone=True)
            _await(kubectl, name)
            yield Reader(
                kubectl.command("exec", "--stdin", name, f"--container={CONTAINER}", "--", "python"), STORAGE_PATH
            )
        finally:
            with ending.deferred():
                _delete(kubectl, name)


def manifest(job: ClusterJob, name: str, node: dict[str, Any] | None) -> dict[str, Any]:
    """The pod.

    Args:
        job: the job; its profiles say what prepare, which needs no accelerator, ran with.
        name: of the pod.
        node: the spec of a pod beside which it must run, if any.

    Raises:
        CommandError: nothing of the job has begun, or its status is damaged.
    """
    profile = profile_of(job)
    job_pod, preset = job.spec.get("pod") or {}, profile.get("pod") or {}
    group = job_pod.get("fsGroup") or preset.get("fsGroup")
    beside = node or {}
    pulls = dict.fromkeys([*preset.get("imagePullSecrets", []), *job_pod.get("imagePullSecrets", [])])
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **({"supplementalGroups": [group]} if group else {}),
        },
        "containers": [_container(profile["image"], job.spec["storage"].get("path"))],
        # read-only by its mount: a volume that is so itself some drivers attach in another way than the trainer's
        "volumes": [{"name": "storage", "persistentVolumeClaim": {"claimName": claim_of(job)}}],
        "tolerations": [toleration for pod in (preset, job_pod, beside) for toleration in pod.get("tolerations", [])],
        "imagePullSecrets": [{"name": secret} for secret in pulls],
    }
    account = job_pod.get("serviceAccountName") or preset.get("serviceAccountName")
    if account:
        spec["serviceAccountName"] = account
    if beside:
        spec["affinity"] = {"nodeAffinity": _only(beside["nodeName"])}
    elif preset.get("nodeSelector"):
        spec["nodeSelector"] = preset["nodeSelector"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(job, name), "spec": spec}


def _container(image: str, path: str | None) -> dict[str, Any]:
    mount = {"name": "storage", "mountPath": STORAGE_PATH, "readOnly": True}
    return {
        "name": CONTAINER,
        "image": image,
        "command": ["python", "-I", "-S", "-c", WAIT],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{**mount, "subPath": path} if path else mount],
    }


def claim_of(job: ClusterJob) -> str:
    """The claim that holds the job's storage."""
    return str(job.spec["storage"].get("claimName") or names.claim(job.name))


def node_of(kubectl: Kubectl, job: ClusterJob) -> dict[str, Any] | None:
    """Spec of a running pod that holds the claim for its node alone; None: any node will do."""
    name = claim_of(job)
    claim = kubectl.json("get", "persistentvolumeclaim", name, "--ignore-not-found")
    if claim is None:
        raise CommandError(f"{job.name}: its claim {name} is gone, and what was on it", Exit.INVALID)
    modes = (claim.get("status") or {}).get("accessModes") or claim["spec"].get("accessModes") or ()
    if any(mode in _SHARED for mode in modes):
        return None
    for pod in kubectl.json("get", "pods", "--field-selector=status.phase=Running")["items"]:
        volumes = pod["spec"].get("volumes") or ()
        if any((volume.get("persistentVolumeClaim") or {}).get("claimName") == name for volume in volumes):
            pod_spec: dict[str, Any] = pod["spec"]
            return pod_spec
    return None


def pods_of(kubectl: Kubectl, job: ClusterJob, stage: str, attempt: int) -> list[dict[str, Any]]:
    """The pods of an attempt that are there, in the gang's order."""
    labels = {names.UID: job.uid, names.STAGE: stage, names.ATTEMPT: str(attempt)}
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    return sorted(kubectl.json("get", "pods", f"--selector={selector}")["items"], key=index_of)


def index_of(pod: dict[str, Any]) -> int:
    """Its place in the gang."""
    return int((pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", 0))


def state_of(pod: dict[str, Any]) -> tuple[bool, str]:
    """Whether its container has started, and why not."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return False, f"{condition.get('reason')}: {condition.get('message')}"
    for container in status.get("containerStatuses") or ():
        if container["name"] in (CONTAINER, names.CONTAINER):
            waiting = container["state"].get("waiting")
            if waiting is None:
                return True, ""
            words = (str(waiting.get("reason")), waiting.get("message"))
            return False, ": ".join(word for word in words if word)
    return False, str(status.get("reason") or status.get("phase") or "Pending")


def profile_of(job: ClusterJob) -> dict[str, Any]:
    """What prepare ran with, its image among it.

    Raises:
        CommandError: nothing of the job has begun.
    """
    pinned = job.status.profiles
    text = pinned.get("cpu") or next(iter(pinned.values()), None)
    try:
        profile = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):
        profile = None
    if not isinstance(profile, dict):
        raise CommandError(
            f"{job.name}: status.profiles holds a profile that is no JSON object; nothing is run from it"
        )
    image = profile.get("image") or job.status.image
    if image is None:
        raise CommandError(f"{job.name}: nothing of it has begun ({job.phase}), so there is nothing to read")
    return {**profile, "image": image}


def _metadata(job: ClusterJob, name: str) -> dict[str, Any]:
    """It belongs to the job, so that it goes with it at the latest; without the labels of the job's own pods."""
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": job.name, "uid": job.uid}
    labels = {
        "app.kubernetes.io/name": "rlhf-reader",
        "app.kubernetes.io/part-of": "rlhf",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    }
    return {"name": name, "namespace": job.namespace, "labels": labels, "ownerReferences": [owner]}


def _only(node: str) -> dict[str, Any]:
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]}}


def _delete(kubectl: Kubectl, name: str) -> None:
    try:
        kubectl.run("delete", "pod", name, "--ignore-not-found", "--wait=false", "--grace-period=1", alone=True)
    except Refused as error:  # what was read is whole all the same
        complain(f"the pod {name} could not be deleted ({error}); it ends by itself in {IDLE_SECONDS // 60} minutes")


def _await(kubectl: Kubectl, name: str) -> None:
    """Until the pod runs.

    Raises:
        CommandError: it will not, or has not for long; says why.
    """
    end = time.monotonic() + START_SECONDS
    while True:
        pod = kubectl.json("get", "pod", name)
        started, why = state_of(pod)
        phase = (pod.get("status") or {}).get("phase")
        if started and phase == "Running":
            return
        hopeless = phase in ("Failed", "Succeeded") or why.split(":")[0] in _HOPELESS
        if hopeless or time.monotonic() > end:
            raise CommandError(f"the pod that reads the storage does not start: {why or phase}")
        time.sleep(0.5)
