"""What a pod of an attempt says, and the trainer in it. Reads raw objects, decides nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from rlhf_api.names import CONTAINER as CONTAINER
from rlhf_operator.reconcile import times
from rlhf_operator.reconcile.outcome import Raw

_EVICTIONS = frozenset({"Evicted", "Preempting", "NodeShutdown", "NodeLost", "Shutdown", "Terminated"})
"""`status.reason` of pods that kubelet or a controller ended."""
_OWN_LIMIT = re.compile("exceed(s|ed) ")
"""Of the kubelet's message where a pod has passed a limit of its own; where the node is short of something it says so."""
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError"})
"""Why a container ended that never ran."""

WAITS_FOR_OTHERS = frozenset({"ContainerCreating", "PodInitializing"})
"""What the kubelet says of every container as long as one of them, or a volume, or the network is not there."""

NUMBER = re.compile("[0-9]{1,9}")
"""Of an index or an attempt, in a label."""

METRICS = "metrics"
"""Name of the trainer's port."""
MOST_STEPS = 2**53
"""What every reader of JSON keeps exact; beyond it a step is none."""


@dataclass(frozen=True)
class TerminationSummary:
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
        ports = [port for container in self._containers for port in container.get("ports") or ()]
        return next((int(port["containerPort"]) for port in ports if port.get("name") == METRICS), None)

    @property
    def _containers(self) -> list[dict[str, Any]]:
        containers = (self.raw.get("spec") or {}).get("containers") or ()
        return [container for container in containers if container.get("name") == CONTAINER]

    @property
    def phase(self) -> str:
        """Pending, Running, Succeeded, Failed or Unknown."""
        return str((self.raw.get("status") or {}).get("phase") or "Pending")

    @property
    def live(self) -> bool:
        """Whether the trainer may still run in it. What else someone put into the pod may run on."""
        return not self.ended and not self.held_up

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def held_up(self) -> bool:
        """Whether its trainer has ended and a container that someone put beside it runs on.

        At any end the kubelet says first that the container ended, and a moment later that the pod did. A native sidecar is
        an init container, and is ended by the kubelet itself.
        """
        containers = (self.raw.get("status") or {}).get("containerStatuses") or ()
        beside = [container for container in containers if container.get("name") != CONTAINER]
        running = any("running" in (container.get("state") or {}) for container in beside)
        return not self.ended and self.terminated is not None and running

    @property
    def index(self) -> int:
        """Its place in the gang."""
        meta = self.raw["metadata"]
        key = "batch.kubernetes.io/job-completion-index"
        text = (meta.get("annotations") or {}).get(key) or (meta.get("labels") or {}).get(key) or ""
        return int(text) if NUMBER.fullmatch(text) else 0

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
        if status.get("reason") in _EVICTIONS and self.own_limit is None:
            return self._status_words
        return None

    @property
    def own_limit(self) -> str | None:
        """Which limit of its own it passed (a volume's, or of ephemeral storage), in the kubelet's words. Short of
        something itself, a node adds the condition DisruptionTarget."""
        status = self.raw.get("status") or {}
        targeted = any(condition["type"] == "DisruptionTarget" for condition in status.get("conditions") or ())
        message = str(status.get("message") or "")
        passed = status.get("reason") == "Evicted" and not targeted and _OWN_LIMIT.search(message)
        return message.strip().rstrip(".") if passed else None

    @property
    def not_admitted(self) -> str | None:
        """Why the kubelet would not have it, in its own words: it failed before any of its containers began."""
        status = self.raw.get("status") or {}
        begun = status.get("containerStatuses") or status.get("initContainerStatuses")
        refused = self.phase == "Failed" and status.get("reason") and not begun
        return self._status_words if refused and status["reason"] not in _EVICTIONS else None

    @property
    def not_started(self) -> str | None:
        """Why the node could not start the trainer's container."""
        ended = self.terminated or {}
        words = (ended.get("reason"), ended.get("message"))
        return ": ".join(str(word) for word in words if word) if ended.get("reason") in _NOT_STARTED else None

    @property
    def failed_init(self) -> str | None:
        """Which init container failed, and how: someone put it there, the operator makes none."""
        if self.phase != "Failed" or self.terminated is not None:
            return None  # a native sidecar ends after the trainer
        for container in (self.raw.get("status") or {}).get("initContainerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode"):
                return _container_words(container, ended)
        return None

    @property
    def failed_sidecar(self) -> str | None:
        """Which container beside a trainer that ended well made the pod fail, and how."""
        if self.phase != "Failed" or self.exit_code != 0:
            return None
        for container in (self.raw.get("status") or {}).get("containerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if container.get("name") != CONTAINER and ended.get("exitCode"):
                return _container_words(container, ended)
        return "a container beside the trainer failed"

    @property
    def container_lost(self) -> str | None:
        """That its node does not know what became of the trainer's container, or that it failed without a word."""
        if (self.terminated or {}).get("reason") == "ContainerStatusUnknown":
            return "the node lost the trainer's container"
        silent = self.phase == "Failed" and self.terminated is None and self.own_limit is None
        return "the pod failed, and its node says nothing of the trainer's container" if silent else None

    @property
    def _status_words(self) -> str:
        status = self.raw.get("status") or {}
        return ": ".join(str(word) for word in (status.get("reason"), status.get("message")) if word)

    @property
    def container(self) -> dict[str, Any]:
        """Status of the trainer's container, empty when there is none."""
        statuses = (self.raw.get("status") or {}).get("containerStatuses") or ()
        return next((status for status in statuses if status.get("name") == CONTAINER), {})

    @property
    def terminated(self) -> dict[str, Any] | None:
        """How the trainer's container ended, if it did."""
        state: dict[str, Any] | None = (self.container.get("state") or {}).get("terminated")
        return state

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
    def out_of_memory(self) -> bool:
        """Whether the kernel ended it for want of memory."""
        return (self.terminated or {}).get("reason") == "OOMKilled"

    @property
    def summary(self) -> TerminationSummary:
        """The termination summary; of a container that wrote none, the last lines of its log (FallbackToLogsOnError).

        It may be anything. What orjson reads it can write: no number beyond 64 bits, no nesting without end.
        """
        text = ((self.terminated or {}).get("message") or "").strip()
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            return TerminationSummary(message=f"its summary cannot be read: {text}" if text.startswith("{") else text)
        if not isinstance(document, dict):
            return TerminationSummary(message=text)
        step, result, raised = document.get("step"), document.get("result"), document.get("raised")
        return TerminationSummary(
            reason=str(document.get("reason") or ""),
            message=str(document.get("message") or ""),
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
        waiting = [
            (container, state)
            for container in containers
            if (state := (container.get("state") or {}).get("waiting")) is not None
        ]
        for container, state in sorted(waiting, key=lambda entry: entry[1].get("reason") in WAITS_FOR_OTHERS):
            name, message = str(container.get("name")), str(state.get("message") or "")
            reason = str(state.get("reason") or "ContainerCreating")
            return reason, message if name == CONTAINER else f"container {name}: {message or reason}"
        return None


def _container_words(container: dict[str, Any], ended: dict[str, Any]) -> str:
    words = [f"container {container.get('name')} ended with exit code {ended.get('exitCode')}"]
    words += [str(word) for word in (ended.get("reason"), ended.get("message")) if word]
    return ": ".join(words)


def owner_uid(raw: Raw) -> str | None:
    """UID of the owner that controls an object."""
    owners = raw["metadata"].get("ownerReferences") or ()
    return next((str(owner.get("uid")) for owner in owners if owner.get("controller")), None)
