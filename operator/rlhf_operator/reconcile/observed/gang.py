"""An attempt's Job and its pods together. Reads raw objects, decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rlhf_operator.reconcile import naming, times
from rlhf_operator.reconcile.observed.pods import NUMBER, Pod, owner_uid
from rlhf_operator.reconcile.outcome import Raw


@dataclass(frozen=True)
class AttemptPods:
    """An attempt's Job and pods."""

    job: Raw | None
    pods: tuple[Pod, ...]

    @classmethod
    def of(cls, name: str, recorded: str | None, jobs: Iterable[Raw], pods: Iterable[Raw]) -> AttemptPods:
        """The Job of that name and the pods that it controls, in the gang's order; of a Job that is gone those of the
        recorded UID."""
        job = next((raw for raw in jobs if raw["metadata"]["name"] == name), None)
        uid = recorded if job is None else str(job["metadata"]["uid"])
        mine = [Pod(raw) for raw in pods if uid is not None and owner_uid(raw) == uid]
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
    def succeeded(self) -> bool:
        """Every trainer ended well, whatever becomes of what someone put beside it."""
        well = len(self.pods) >= self.nodes and all(pod.exit_code == 0 for pod in self.pods)
        failing = self.condition("FailureTarget") is not None or self.failed
        return self.complete or (well and (failing or any(pod.held_up for pod in self.pods)))

    @property
    def broken(self) -> bool:
        """A trainer ended otherwise than well, and its pod does not end: the Job controller sees no failure."""
        return any(pod.held_up and pod.deleted_at is None and pod.exit_code != 0 for pod in self.pods)

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

    @property
    def suspended_at(self) -> datetime | None:
        """When it was last held."""
        return self._since("Suspended")

    @property
    def failed_at(self) -> datetime | None:
        """When the Job controller saw that it failed."""
        return self._since("FailureTarget", "Failed")

    @property
    def ended_at(self) -> datetime | None:
        """When it ended, by the control plane's clock: nodes have others."""
        return self._since("Complete", "Failed", "FailureTarget")

    def _since(self, *kinds: str) -> datetime | None:
        """Since when the first of these conditions holds."""
        condition = next(filter(None, map(self.condition, kinds)), {})
        text = condition.get("lastTransitionTime")
        return times.read(text) if text else None

    def condition(self, kind: str) -> dict[str, Any] | None:
        """The Job's condition of that type, if it holds."""
        for entry in ((self.job or {}).get("status") or {}).get("conditions") or ():
            if entry["type"] == kind and entry["status"] == "True":
                condition: dict[str, Any] = entry
                return condition
        return None

    def lost(self, seconds: float, now: datetime) -> tuple[bool, datetime | None]:
        """Whether every pod that is left is on a node that will not answer; else when that would be assumed.

        A pod is taken for dead so many seconds after its grace period: its node would have removed it.
        """
        gone_times = [pod.gone_at for pod in self.live]
        assumed_dead = [gone + timedelta(seconds=seconds) for gone in gone_times if gone is not None]
        if len(assumed_dead) < len(gone_times):
            return False, None
        last = max(assumed_dead, default=now)
        return last <= now, None if last <= now else last


def attempts_of(stage: str, jobs: Iterable[Raw]) -> Iterator[tuple[int, Raw]]:
    """A job's own Jobs (or other objects) of a stage, with their attempts."""
    for job in jobs:
        labels = job["metadata"].get("labels") or {}
        number = str(labels.get(naming.ATTEMPT, ""))
        if labels.get(naming.STAGE) == stage and NUMBER.fullmatch(number):
            yield int(number), job
