"""What the objects of an attempt say: the Job, its pods, the trainer's own words. Reads raw objects, decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from rlhf_api.names import CONTAINER as CONTAINER
from rlhf_operator.reconcile import naming, times
from rlhf_operator.reconcile.outcome import Raw

_EVICTIONS = frozenset({"Evicted", "Preempting", "NodeShutdown", "NodeLost", "Shutdown", "Terminated", "NodeAffinity"})
"""`status.reason` of pods that kubelet or a controller ended."""

WAITS_FOR_OTHERS = frozenset({"ContainerCreating", "PodInitializing"})
"""What the kubelet says of every container as long as one of them, or a volume, or the network is not there."""

_NUMBER = re.compile("[0-9]{1,9}")

METRICS = "metrics"
"""Name of the trainer's port."""
MOST_STEPS = 2**53
"""What every reader of JSON keeps exact; beyond it a step is none."""


@dataclass(frozen=True)
class Said:
    """A trainer's termination summary."""

    reason: str = ""
    message: str = ""
    step: int | None = None
    result: dict[str, Any] = field(default_factory=dict)
    raised: float = 0.0
    """When its rank raised, in seconds of the epoch; 0: it was killed, or said nothing."""


@dataclass(frozen=True)
class Pod:
    """A pod of an attempt."""

    raw: Raw

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Its UID."""
        return str(self.raw["metadata"].get("uid") or "")

    @property
    def node(self) -> str | None:
        """Where it was put."""
        return (self.raw.get("spec") or {}).get("nodeName")

    @property
    def ip(self) -> str | None:
        """Its address."""
        return (self.raw.get("status") or {}).get("podIP")

    @property
    def metrics_port(self) -> int | None:
        """Where the trainer's container serves /progress."""
        ports = [port for one in self._containers for port in one.get("ports") or ()]
        return next((int(port["containerPort"]) for port in ports if port.get("name") == METRICS), None)

    @property
    def _containers(self) -> list[dict[str, Any]]:
        containers = (self.raw.get("spec") or {}).get("containers") or ()
        return [one for one in containers if one.get("name") == CONTAINER]

    @property
    def phase(self) -> str:
        """Pending, Running, Succeeded, Failed or Unknown."""
        return str((self.raw.get("status") or {}).get("phase") or "Pending")

    @property
    def live(self) -> bool:
        """Whether a process of it may still run."""
        return self.phase not in ("Succeeded", "Failed")

    @property
    def index(self) -> int:
        """Its place in the gang."""
        meta = self.raw["metadata"]
        key = "batch.kubernetes.io/job-completion-index"
        text = (meta.get("annotations") or {}).get(key) or (meta.get("labels") or {}).get(key) or ""
        return int(text) if _NUMBER.fullmatch(text) else 0

    @property
    def gone_at(self) -> datetime | None:
        """When its grace period ends, if it was deleted."""
        text = self.raw["metadata"].get("deletionTimestamp")
        return times.read(text) if text else None

    @property
    def deleted_at(self) -> datetime | None:
        """When its deletion was asked for."""
        gone = self.gone_at
        grace = self.raw["metadata"].get("deletionGracePeriodSeconds") or 0
        return None if gone is None else gone - timedelta(seconds=grace)

    @property
    def disruption(self) -> str | None:
        """Why the platform ended it, in its own words."""
        status = self.raw.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
                words = (condition.get("reason"), condition.get("message"))
                return ": ".join(word for word in words if word) or "DisruptionTarget"
        if status.get("reason") in _EVICTIONS:
            return ": ".join(word for word in (status["reason"], status.get("message")) if word)
        return None

    @property
    def container(self) -> dict[str, Any]:
        """Status of the trainer's container, empty when there is none."""
        found = (self.raw.get("status") or {}).get("containerStatuses") or ()
        return next((one for one in found if one.get("name") == CONTAINER), {})

    @property
    def terminated(self) -> dict[str, Any] | None:
        """How the trainer's container ended, if it did."""
        found: dict[str, Any] | None = (self.container.get("state") or {}).get("terminated")
        return found

    @property
    def exit_code(self) -> int | None:
        """Of the trainer."""
        ended = self.terminated
        return None if ended is None else int(ended.get("exitCode", 0))

    @property
    def started_at(self) -> datetime | None:
        """When the trainer's container began."""
        state = self.container.get("state") or {}
        text = (state.get("running") or state.get("terminated") or {}).get("startedAt")
        return times.read(text) if text else None

    @property
    def ended_at(self) -> datetime | None:
        """When the trainer's container ended."""
        text = (self.terminated or {}).get("finishedAt")
        return times.read(text) if text else None

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel ended it for want of memory."""
        return (self.terminated or {}).get("reason") == "OOMKilled"

    @property
    def said(self) -> Said:
        """Its summary; of a container that wrote none, the last lines of its log (FallbackToLogsOnError).

        It may be anything. What orjson reads it can write: no number beyond 64 bits, no nesting without end.
        """
        text = ((self.terminated or {}).get("message") or "").strip()
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            return Said(message=f"its summary cannot be read: {text}" if text.startswith("{") else text)
        if not isinstance(found, dict):
            return Said(message=text)
        step, result, raised = found.get("step"), found.get("result"), found.get("raised")
        return Said(
            reason=str(found.get("reason") or ""),
            message=str(found.get("message") or ""),
            step=step if type(step) is int and 0 <= step < MOST_STEPS else None,
            result=result if isinstance(result, dict) else {},
            raised=float(raised) if isinstance(raised, int | float) else 0.0,
        )

    @property
    def waiting(self) -> tuple[str, str] | None:
        """Why it does not run yet: the scheduler's or the kubelet's reason and message; of containers that wait for
        others, which they wait for."""
        status = self.raw.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return str(condition.get("reason") or "Unschedulable"), str(condition.get("message") or "")
        containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        waiting = [(one, state) for one in containers if (state := (one.get("state") or {}).get("waiting")) is not None]
        for container, state in sorted(waiting, key=lambda entry: entry[1].get("reason") in WAITS_FOR_OTHERS):
            name, message = str(container.get("name")), str(state.get("message") or "")
            reason = str(state.get("reason") or "ContainerCreating")
            return reason, message if name == CONTAINER else f"container {name}: {message or reason}"
        return None


@dataclass(frozen=True)
class Gang:
    """An attempt's Job and pods."""

    job: Raw | None
    pods: tuple[Pod, ...]

    @classmethod
    def of(cls, name: str, recorded: str | None, jobs: Iterable[Raw], pods: Iterable[Raw]) -> Gang:
        """The Job of that name and the pods that it controls, in the gang's order; of a Job that is gone those of the
        recorded UID."""
        job = next((one for one in jobs if one["metadata"]["name"] == name), None)
        uid = recorded if job is None else str(job["metadata"]["uid"])
        mine = [Pod(one) for one in pods if uid is not None and owner_uid(one) == uid]
        return cls(job, tuple(sorted(mine, key=lambda pod: (pod.index, pod.name))))

    @property
    def uid(self) -> str:
        """The Job's."""
        return str((self.job or {}).get("metadata", {}).get("uid") or "")

    @property
    def live(self) -> list[Pod]:
        """Pods of which a process may still run."""
        return [pod for pod in self.pods if pod.live]

    @property
    def nodes(self) -> int:
        """Pods it should have."""
        return int(((self.job or {}).get("spec") or {}).get("completions") or 1)

    @property
    def suspended(self) -> bool:
        """Whether someone (Kueue) holds the Job."""
        return bool(((self.job or {}).get("spec") or {}).get("suspend"))

    @property
    def queue(self) -> str | None:
        """Kueue's queue that the Job names."""
        labels = (self.job or {}).get("metadata", {}).get("labels") or {}
        return labels.get(naming.QUEUE)

    @property
    def deleted_at(self) -> datetime | None:
        """When deletion of the Job was asked for."""
        text = (self.job or {}).get("metadata", {}).get("deletionTimestamp")
        return times.read(text) if text else None

    @property
    def complete(self) -> bool:
        """Every pod ended well."""
        return self.condition("Complete") is not None

    @property
    def failed(self) -> bool:
        """It failed, and no pod of it runs."""
        return self.condition("Failed") is not None

    @property
    def finished(self) -> bool:
        """Nothing of it runs or will."""
        return self.complete or self.failed

    @property
    def started_at(self) -> datetime | None:
        """When it was last let run."""
        text = ((self.job or {}).get("status") or {}).get("startTime")
        return times.read(text) if text else None

    def condition(self, kind: str) -> dict[str, Any] | None:
        """The Job's condition of that type, if it holds."""
        for one in ((self.job or {}).get("status") or {}).get("conditions") or ():
            if one["type"] == kind and one["status"] == "True":
                found: dict[str, Any] = one
                return found
        return None

    def lost(self, seconds: float, now: datetime) -> tuple[bool, datetime | None]:
        """Whether every pod that is left is on a node that will not answer; else when that would be assumed.

        A pod is taken for dead so many seconds after its grace period: its node would have removed it.
        """
        left = [pod.gone_at for pod in self.live]
        known = [gone + timedelta(seconds=seconds) for gone in left if gone is not None]
        if len(known) < len(left):
            return False, None
        last = max(known, default=now)
        return last <= now, None if last <= now else last


def owner_uid(raw: Raw) -> str | None:
    """UID of the owner that controls an object."""
    owners = raw["metadata"].get("ownerReferences") or ()
    return next((str(one.get("uid")) for one in owners if one.get("controller")), None)


def attempts_of(stage: str, jobs: Iterable[Raw]) -> Iterator[tuple[int, Raw]]:
    """A job's own Jobs (or other objects) of a stage, with their attempts."""
    for job in jobs:
        labels = job["metadata"].get("labels") or {}
        number = str(labels.get(naming.ATTEMPT, ""))
        if labels.get(naming.STAGE) == stage and _NUMBER.fullmatch(number):
            yield int(number), job
