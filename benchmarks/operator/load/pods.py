"""Nodes and pods that nobody runs: kwok says what a kubelet would, the scheduler is the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.binaries import program
from cluster.control_plane import ControlPlane, free_port
from cluster.processes import Process
from load.jobs import HOLD, summary

NODES = 10
LIMITS = ("--kube-api-qps=2000", "--kube-api-burst=4000")
"""Of Kubernetes' own clients, whose default of 20 to 50 requests a second would be all that is measured."""
CONTROLLERS = (*LIMITS, "--concurrent-job-syncs=20")
_ABSENT = "DoesNotExist"
_SIDE_BY_SIDE = (
    "nodeLeaseParallelism",
    "nodePlayStageParallelism",
    "podPlayStageParallelism",
    "podsOnNodeSyncParallelism",
)
"""All of kwok's: of a configuration that names some options it takes the others to be zero."""


class Kubelets:
    """The scheduler and kwok, for a control plane with nodes that take any number of pods."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        config = plane.folder / "kwok.yaml"
        config.write_text("\n---\n".join(json.dumps(document, indent=1) for document in configuration()))
        self._processes = (
            Process(
                "kube-scheduler",
                lambda: [
                    *(program("kube-scheduler"), f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false", *LIMITS),
                    f"--secure-port={free_port()}",
                ],
                plane.folder,
            ),
            Process(
                "kwok",
                lambda: [
                    *(program("kwok"), f"--kubeconfig={plane.kubeconfig}", f"--config={config}"),
                    *("--manage-all-nodes", "--node-lease-duration-seconds=40"),
                ],
                plane.folder,
            ),
        )

    def start(self) -> None:
        """Start both; returns when the nodes are ready."""
        nodes = {"apiVersion": "v1", "kind": "List", "items": [node(index) for index in range(NODES)]}
        self._plane.kubectl("create", "-f", "-", stdin=json.dumps(nodes))
        for process in self._processes:
            process.start()
        self._plane.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
        for process in self._processes:
            process.until(lambda: True, 1)


def node(index: int) -> dict[str, Any]:
    """A node that kwok plays."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"kwok-{index}"}}


def configuration() -> list[dict[str, Any]]:
    """kwok's: a node is ready at once, a pod runs and then ends well at once, a deleted one is gone."""
    return [
        {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokConfiguration",
            "options": dict.fromkeys(_SIDE_BY_SIDE, 16),
        },
        _stage("node-ready", "Node", _NODE, [_where('.status.conditions.[] | select(.type == "Ready") | .status')]),
        _stage("pod-runs", "Pod", _RUNS, [_living(), _in(".status.phase", "Pending")]),
        _stage(
            "pod-ends",
            "Pod",
            _ends(),
            [_living(), _in(".status.phase", "Running"), _where(f'.metadata.labels["{HOLD}"]')],
        ),
        _stage("pod-goes", "Pod", None, [_where(".metadata.deletionTimestamp", "Exists")]),
    ]


def _stage(name: str, kind: str, status: str | None, selector: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": selector},
            "next": {"delete": True} if status is None else {"statusTemplate": status},
        },
    }


def _where(key: str, operator: str = _ABSENT) -> dict[str, Any]:
    return {"key": key, "operator": operator}


def _in(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": [value]}


def _living() -> dict[str, Any]:
    return _where(".metadata.deletionTimestamp")


_NODE = """\
{{ $now := Now }}
allocatable: {cpu: "100000", memory: 100Ti, pods: "100000"}
capacity: {cpu: "100000", memory: 100Ti, pods: "100000"}
conditions:
- {type: Ready, status: "True", reason: KubeletReady, message: "", lastHeartbeatTime: {{ Quote $now }}, lastTransitionTime: {{ Quote $now }}}
phase: Running
"""
_RUNS = """\
{{ $now := Now }}
phase: Running
podIP: 127.0.0.1
startTime: {{ Quote $now }}
conditions:
- {type: Ready, status: "True", lastTransitionTime: {{ Quote $now }}}
containerStatuses:
- name: trainer
  image: trainer
  imageID: ""
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ Quote $now }}}}
"""


def _ends() -> str:
    return f"""\
{{{{ $now := Now }}}}
phase: Succeeded
conditions:
- {{type: Ready, status: "False", reason: PodCompleted, lastTransitionTime: {{{{ Quote $now }}}}}}
containerStatuses:
- name: trainer
  image: trainer
  imageID: ""
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{{{ Quote $now }}}}
      finishedAt: {{{{ Quote $now }}}}
      message: {json.dumps(summary())}
"""


def claim(namespace: str, name: str) -> list[dict[str, Any]]:
    """A claim that is bound, and its volume."""
    modes, size = ["ReadWriteMany"], {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": size,
            "accessModes": modes,
            "hostPath": {"path": str(Path("/nowhere"))},
            "claimRef": {"namespace": namespace, "name": name},
            "storageClassName": "",
        },
    }
    bound = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": modes,
            "resources": {"requests": size},
            "volumeName": name,
            "storageClassName": "",
        },
    }
    return [volume, bound]
