"""The jobs of the load, and what the operator makes of one: computed, so that others can make the same objects."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rlhf_api.load import parse_job
from rlhf_api.plan import Resolved, ResolvedInput
from rlhf_api.termination_codec import compact
from rlhf_operator.reconcile import Observed, Settings, naming, reconcile
from rlhf_operator.runtime.kinds import Object

NAMESPACE = "load"
CLAIM = "models"
HOLD = "load/hold"
"""A label of pods that run on and on."""
SETTINGS = Settings.model_validate(
    {"image": f"registry.invalid/trainer@sha256:{'0' * 64}", "profiles": {"default": {}, "cpu": {}}}
)
_WIDTH = 6


def job(name: str, *, queue: str | None = None, hold: bool = False, suspend: bool = False) -> Object:
    """A job of four stages in a row: prepare, sft, reward, report.

    Args:
        name: its name.
        queue: its Jobs are made suspended, for that queue.
        hold: its pods run on and on.
        suspend: it is not to run.
    """
    labels = {naming.QUEUE: queue} if queue else {}
    rows = {"data": [{"input": "rows"}]}
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "storage": {"claimName": CLAIM},
            "inputs": [
                {"name": "base", "source": "hf://org/base@1"},
                {"name": "rows", "source": "hf://datasets/org/rows@1"},
            ],
            "stages": [
                {"name": "sft", "sft": {"model": {"input": "base"}, **rows}},
                {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, **rows}},
            ],
            **({"pod": {"labels": {HOLD: "true"}}} if hold else {}),
            **({"suspend": True} if suspend else {}),
        },
    }


def names(prefix: str, count: int) -> list[str]:
    """Names of that many jobs, all of the same length."""
    return [f"{prefix}-{index:0{_WIDTH}d}" for index in range(count)]


def summary() -> str:
    """The termination message with which every pod of the load ends; prepare's result among it."""
    parsed = parse_job(job("any"))
    resolved = Resolved({entry.name: ResolvedInput("ab" * 20, "") for entry in parsed.spec.inputs})
    termination = {"code": 0, "reason": "Done", "step": 7, "message": "done", "result": compact(parsed, resolved)}
    return json.dumps(termination)


@dataclass(frozen=True)
class Course:
    """A job from its start to its end, every pod ending well."""

    stages: list[list[Object]]
    """What is made for each stage, in order; the Job last."""
    status: Object
    """Of the job at its end."""


def course(raw: Object) -> Course:
    """Let `reconcile` run a job through."""
    raw = copy.deepcopy(raw)
    raw["metadata"] |= {"uid": raw["metadata"].get("uid") or "uid-of-the-template", "generation": 1}
    stages: list[list[Object]] = []
    jobs: list[Object] = []
    pods: list[Object] = []
    while True:
        out = reconcile(raw, Observed(tuple(jobs), tuple(pods)), SETTINGS, datetime.now(UTC))
        raw["status"] = out.status
        if out.status["phase"] == "Complete" or not out.create:
            return Course(stages, out.status)
        stages.append(out.create)
        ended = _ended(out.create[-1])
        jobs.append(ended[0])
        pods.append(ended[1])


def _ended(child: Object) -> tuple[Object, Object]:
    """A Job that is complete, and its pod."""
    metadata = {**child["metadata"], "uid": f"uid-of-{child['metadata']['name']}"}
    complete = {"metadata": metadata, "spec": child["spec"], "status": {"conditions": [_true("Complete")]}}
    ended = {"exitCode": 0, "finishedAt": "2026-01-01T00:00:00Z", "message": summary()}
    pod = {
        "metadata": {
            "name": f"{metadata['name']}-0",
            "labels": metadata["labels"],
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
            "ownerReferences": [{"uid": metadata["uid"], "controller": True}],
        },
        "status": {"phase": "Succeeded", "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}]},
    }
    return complete, pod


def _true(kind: str) -> dict[str, Any]:
    return {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
