"""RLHFJobs of a cluster, as commands read and change them: the spec's few fields that may change, and .status."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf_api import names
from rlhf_api.contract import GATE_FAILED
from rlhf_api.status import Attempt, JobStatus, StageStatus
from rlhf_sdk.cluster.kubectl import FIELD_MANAGER, Kubectl, NotFound, Target
from rlhf_sdk.exits import CommandError, Exit

RESOURCE = "rlhfjobs.rlhf.dev"
DONE = ("Complete", "Reused")
OPEN = ("Pending", "Running")
"""States of an attempt that has not ended."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SHOWN = 10
"""Names listed where a name is not found."""


@dataclass(frozen=True)
class ClusterJob:
    """One RLHFJob as it stood when it was read."""

    raw: dict[str, Any]
    status: JobStatus

    @classmethod
    def of(cls, raw: dict[str, Any]) -> ClusterJob:
        """Read it.

        Raises:
            CommandError: its status is written in a way that this version does not know.
        """
        try:
            return cls(raw, JobStatus.model_validate(raw.get("status") or {}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CommandError(
                f"{raw['metadata']['name']}: status.{where}: {first['msg']}; a newer operator may have written it: "
                "use the `rlhf` of its version"
            ) from error

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """Given by the API server."""
        return str(self.raw["metadata"]["uid"])

    @property
    def spec(self) -> dict[str, Any]:
        """As it was written."""
        return dict(self.raw.get("spec") or {})

    @property
    def suspended(self) -> bool:
        """Whether it is asked to stop; it may not have stopped yet."""
        return bool(self.spec.get("suspend"))

    @property
    def phase(self) -> str:
        """In one word; `Pending` before the operator has seen it."""
        return self.status.phase or "Pending"

    @property
    def retry(self) -> str | None:
        """The last retry that was asked for."""
        value = (self.raw["metadata"].get("annotations") or {}).get(names.RETRY)
        return None if value is None else str(value)

    @property
    def retrying(self) -> bool:
        """Whether a retry was asked for that the operator has not acted on."""
        return self.retry is not None and self.retry[:253] not in (self.status.retry, *self.status.retries)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it by itself."""
        if self.retrying:
            return False
        if self.phase == "Invalid":
            return bool(self.status.observed_generation == self.raw["metadata"].get("generation"))
        return self.holds("Complete") or self.holds("Failed")

    @property
    def failed(self) -> StageStatus | None:
        """The first stage that failed."""
        return next((stage for stage in self.status.stages if stage.state == "Failed"), None)

    @property
    def exit(self) -> Exit:
        """What a command that waited for its end gives."""
        if self.holds("Complete"):
            return Exit.DONE
        if self.phase == "Invalid":
            return Exit.INVALID
        failed = self.failed
        attempt = last_attempt(failed) if failed is not None else None
        if failed is not None and failed.reason == GATE_FAILED:
            return Exit.REFUSED
        code = None if attempt is None else attempt.exit_code
        return {2: Exit.INVALID, 3: Exit.REFUSED}.get(code or 0, Exit.FAILED)

    def holds(self, condition: str) -> bool:
        """Whether a condition is True."""
        return any(entry.type == condition and entry.status == "True" for entry in self.status.conditions)

    def stage(self, name: str) -> StageStatus:
        """A stage's entry.

        Raises:
            CommandError: there is none; says which there are.
        """
        entry = next((stage for stage in self.status.stages if stage.name == name), None)
        if entry is None:
            stage_names = ", ".join(stage.name for stage in self.status.stages)
            why = f"the job has {stage_names}" if stage_names else "the operator has not begun the job"
            raise CommandError(f"{name}: no such stage; {why}", Exit.INVALID)
        return entry


def last_attempt(stage: StageStatus) -> Attempt | None:
    """The attempt that runs, or ran last."""
    return stage.attempts[-1] if stage.attempts else None


def named(what: str, target: Target) -> tuple[str, Target]:
    """Name and place of the job that the user means: a name, or a job file, which has both.

    Raises:
        CommandError: the file is no job, or the name is none that a job can have.
    """
    path = Path(what)
    if path.suffix not in (".yaml", ".yml", ".json") and "/" not in what:
        if _NAME.fullmatch(what) is None:
            raise CommandError(
                f"{what}: found no job file of this name; expected one, or a job's name "
                "(at most 253 of a-z, 0-9, - and ., a letter or digit first and last)",
                Exit.INVALID,
            )
        return what, target
    from rlhf_sdk.jobs import identity

    namespace, name = identity(path)
    return name, target.within(namespace)


def get(kubectl: Kubectl, name: str) -> ClusterJob:
    """The job.

    Raises:
        CommandError: there is none of that name; says which there are.
    """
    try:
        return ClusterJob.of(kubectl.json("get", RESOURCE, name))
    except NotFound as error:
        existing = sorted(job.name for job in listed(kubectl))
        more = ", ..." if len(existing) > _SHOWN else ""
        alternatives = f"there are {', '.join(existing[:_SHOWN])}{more}" if existing else "there are none"
        raise CommandError(
            f"{name}: no such RLHFJob in namespace {kubectl.namespace()}; {alternatives}. "
            "Another namespace: -n; a run on this machine: `rlhf` without -n, --context or --cluster",
            Exit.INVALID,
        ) from error


def listed(kubectl: Kubectl) -> Iterator[ClusterJob]:
    """Every job of the namespace."""
    for raw in kubectl.json("get", RESOURCE)["items"]:
        yield ClusterJob.of(raw)


def suspend(kubectl: Kubectl, job: ClusterJob, suspended: bool) -> ClusterJob:
    """Set spec.suspend."""
    patch = json.dumps({"metadata": {"uid": job.uid}, "spec": {"suspend": suspended}})
    return _patched(kubectl, job, patch)


def ask_retry(kubectl: Kubectl, job: ClusterJob, value: str) -> ClusterJob:
    """Set the annotation that starts a failed job again."""
    patch = json.dumps({"metadata": {"uid": job.uid, "annotations": {names.RETRY: value}}})
    return _patched(kubectl, job, patch)


def _patched(kubectl: Kubectl, job: ClusterJob, patch: str) -> ClusterJob:
    """By UID: a job of the same name made meanwhile is another job."""
    arguments = ("patch", RESOURCE, job.name, "--type=merge", f"--field-manager={FIELD_MANAGER}", f"--patch={patch}")
    return ClusterJob.of(kubectl.json(*arguments, alone=True))
