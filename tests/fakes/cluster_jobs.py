"""Jobs as the API server gives them, for tests of what the command makes of them."""

from __future__ import annotations

import copy
import json
from typing import Any

from rlhf_sdk.cluster.jobs import ClusterJob

Status = dict[str, Any]
SPEC: dict[str, Any] = {
    "storage": {"claimName": "models", "path": "team"},
    "inputs": [{"name": "base", "source": "hf://org/base@1"}],
    "stages": [{"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "base"}]}}],
}
PROFILES = {
    "cpu": json.dumps(
        {
            "image": "registry.example/trainer@sha256:00",
            "pod": {"imagePullSecrets": ["pull"], "tolerations": [{"operator": "Exists"}], "fsGroup": 4000},
        }
    ),
    "gpu": json.dumps({"image": "registry.example/trainer@sha256:00", "pod": {"nodeSelector": {"gpu": "yes"}}}),
}


def conditions(**true: tuple[str, str]) -> list[Status]:
    """All six; those that are named hold, with reason and message."""
    return [
        {
            "type": kind,
            "status": "True" if kind in true else "False",
            "reason": true.get(kind, ("NotFinished", ""))[0],
            "message": true.get(kind, ("", ""))[1],
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        }
        for kind in ("Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended")
    ]


def attempt(number: int, state: str, **more: Any) -> Status:
    """An attempt that began five minutes after the one before, and took four."""
    times = {"startTime": f"2026-01-31T12:{5 * number:02}:00Z", "endTime": f"2026-01-31T12:{5 * number + 4:02}:00Z"}
    if state in ("Pending", "Running"):
        del times["endTime"]
    return {"number": number, "state": state, "counted": False, **times, **more}


DONE = attempt(0, "Complete", reason="Complete", node="cpu-1", exitCode=0)
PREPARED: Status = {"name": "prepare", "type": "prepare", "state": "Complete", "restarts": 0, "attempts": [DONE]}
WAITING: Status = {"name": "report", "type": "report", "state": "Waiting", "restarts": 0}
RUNNING: Status = {
    "phase": "Running",
    "observedGeneration": 1,
    "startTime": "2026-01-31T12:00:00Z",
    "profiles": PROFILES,
    "conditions": conditions(Ready=("Running", "")),
    "stages": [
        PREPARED,
        {
            "name": "sft",
            "type": "sft",
            "state": "Running",
            "restarts": 1,
            "product": "sft-" + "ab" * 32,
            "startTime": "2026-01-31T12:00:00Z",
            "progress": {"step": 40, "total": 120, "etaSeconds": 602.0, "headline": {"loss": 0.3125}},
            "attempts": [
                attempt(
                    0, "Disrupted", reason="Evicted", message="Preempting: for another", node="gpu-1", lostSteps=12
                ),
                attempt(
                    1,
                    "Failed",
                    reason="Crashed",
                    message="rank 1 was killed",
                    node="gpu-2",
                    exitCode=1,
                    counted=True,
                    lastStep=33,
                    pod="beaver-sft-1",
                ),
                attempt(2, "Running", node="gpu-3", ranks=2, lastStep=40),
            ],
        },
        WAITING,
    ],
}
SUCCEEDED: Status = {
    **RUNNING,
    "phase": "Complete",
    "completionTime": "2026-01-31T14:10:03Z",
    "conditions": conditions(Ready=("Complete", ""), Complete=("Complete", "every stage is complete")),
    "stages": [
        PREPARED,
        {**PREPARED, "name": "sft", "type": "sft", "product": "sft-" + "ab" * 32},
        {**PREPARED, "name": "report", "type": "report", "product": "report-" + "cd" * 32},
    ],
}
WHY = "rank 0 was killed by SIGKILL, most often because memory ran out (limit 1Gi)"
GAVE_UP: Status = {
    **RUNNING,
    "phase": "Failed",
    "conditions": conditions(Stalled=("OOMKilled", f"sft: {WHY}"), Failed=("OOMKilled", f"sft: {WHY}")),
    "stages": [
        PREPARED,
        {
            "name": "sft",
            "type": "sft",
            "state": "Failed",
            "reason": "OOMKilled",
            "message": WHY,
            "restarts": 3,
            "attempts": [attempt(3, "Failed", reason="OOMKilled", message=WHY, exitCode=137, counted=True, node="n1")],
        },
        {**PREPARED, "name": "report", "type": "report", "product": "report-" + "cd" * 32},
    ],
}
QUEUED: Status = {
    **RUNNING,
    "phase": "Pending",
    "conditions": conditions(Reconciling=("Accepted", "")),
    "stages": [
        {
            **WAITING,
            "name": "prepare",
            "type": "prepare",
            "state": "Pending",
            "reason": "Pending",
            "message": "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.",
            "attempts": [attempt(0, "Pending")],
        },
        {**WAITING, "name": "sft", "type": "sft"},
        WAITING,
    ],
}
INVALID: Status = {
    "phase": "Invalid",
    "observedGeneration": 1,
    "conditions": conditions(Stalled=("InvalidSpec", "spec.profile: there is no profile h100 (did you mean a100?)")),
}


def failed(reason: str, code: int | None) -> Status:
    """A job whose stage sft failed so."""
    status = copy.deepcopy(GAVE_UP)
    status["stages"][1] |= {"reason": reason, "attempts": [attempt(0, "Failed", reason=reason, exitCode=code)]}
    return status


def job(status: Status | None, *, generation: int = 1, retry: str | None = None, **spec: Any) -> ClusterJob:
    """A job of that status."""
    annotations = {} if retry is None else {"annotations": {"rlhf.dev/retry": retry}}
    raw: dict[str, Any] = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {
            "name": "beaver",
            "namespace": "team-a",
            "uid": "11111111-2222-3333-4444-555555555555",
            "generation": generation,
            "creationTimestamp": "2026-01-31T11:59:00Z",
            **annotations,
        },
        "spec": {**SPEC, **spec},
    }
    if status is not None:
        raw["status"] = status
    return ClusterJob.of(copy.deepcopy(raw))
