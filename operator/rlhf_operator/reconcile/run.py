"""One look at one job: what is known of it, and what has been decided so far. The policies read and change it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rlhf_api import lifecycle
from rlhf_api.contract import COMPLETE
from rlhf_api.job import RLHFJob
from rlhf_api.lifecycle import Actions, Records, StageRecord, Wish
from rlhf_api.plan import Plan, PlannedStage, Resolved
from rlhf_api.stages import PREPARE
from rlhf_api.status import MAX_ATTEMPTS, Attempt, JobStatus, StageStatus
from rlhf_operator.reconcile import naming, pinning, plans, profiles, reasons
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.outcome import Event, LiveRead, Observed, Raw, ReconcileResult
from rlhf_operator.reconcile.settings import CPU, Settings
from rlhf_operator.reconcile.stored import UnknownStatus, profile_of

OPEN = ("Pending", "Running")


@dataclass
class ReconcileContext:
    """One look at one job."""

    raw: Raw
    job: RLHFJob
    status: JobStatus
    children: Observed
    settings: Settings
    """As they are for this job: with what it began with."""
    now: datetime
    plan: Plan
    resolved: Resolved | None
    stages: dict[str, StageStatus]
    """As they stand, in the plan's order."""
    ran_until: datetime
    """Until when the attempts ran that are active on record (`deadline.ran_until`)."""
    out: ReconcileResult = field(default_factory=ReconcileResult)
    _recorded: dict[str, tuple[StageStatus, StageRecord]] = field(default_factory=dict)
    stalled: tuple[str, str] | None = None
    """Reason and message, where a person must change something before the job can go on."""

    @classmethod
    def of(cls, raw: Raw, status: JobStatus, children: Observed, settings: Settings, now: datetime) -> ReconcileContext:
        """Take up a job where its status says it is.

        Raises:
            SpecError: it is not valid.
            UnknownStatus: what it began with cannot be read.
        """
        job = plans.parse(raw)
        try:
            plan, resolved = plans.resolve(job, status.resolved)
        except (ValueError, KeyError) as error:
            raise UnknownStatus(f"status.resolved: found {error}; expected what prepare found for this job") from error
        for name, pinned in status.profiles.items():
            profile_of(name, pinned)
        stored = {stage.name: stage for stage in status.stages}
        begun = [
            stage.name
            for stage in status.stages
            if stage.state in COMPLETE or (stage.attempts and stage.name != PREPARE)
        ]
        if resolved is None and begun:
            raise UnknownStatus(f"status.resolved: is missing, though {begun[0]} has begun, or is complete")
        stages = {
            stage.name: stored.get(stage.name) or StageStatus(name=stage.name, type=stage.type, state="Waiting")
            for stage in plan.stages
        }
        status = pinning.adopt(status, plan, settings)
        settings = pinning.effective(settings, status)
        names = (
            {profiles.name_of(stage, settings) for stage in plan.stages} if status.plan_version is not None else set()
        )
        gone = sorted(names - {CPU, *status.profiles, *settings.profiles})
        if gone:
            raise UnknownStatus(
                f"status.profiles: found no {', '.join(gone)}, by which the job began; nor has the platform"
            )
        return cls(raw, job, status, children, settings, now, plan, resolved, stages, now)

    @property
    def uid(self) -> str:
        """The job's."""
        return str(self.raw["metadata"].get("uid") or "")

    @property
    def labels(self) -> dict[str, str]:
        """The job's."""
        return dict(self.raw["metadata"].get("labels") or {})

    @property
    def report(self) -> PlannedStage:
        """The stage that runs last."""
        return self.plan.stages[-1]

    @property
    def records(self) -> Records:
        """How the stages stand, for the lifecycle; of a stage that has not changed the same record as before."""
        for name, stage in self.stages.items():
            if name not in self._recorded or self._recorded[name][0] is not stage:
                self._recorded[name] = stage, record_of(stage)
        return {name: record for name, (_, record) in self._recorded.items()}

    @property
    def failed(self) -> StageStatus | None:
        """The first stage that failed, in the plan's order; the report last."""
        stage = lifecycle.failed_stage(self.plan, self.stages)
        return None if stage is None else self.stages[stage.name]

    @property
    def winding_up(self) -> bool:
        """Whether a stage other than the report failed: siblings are stopped, the report runs."""
        return lifecycle.winding_up(self.plan, self.stages)

    @property
    def prepared(self) -> bool:
        """Whether it is known what the job's inputs are."""
        return self.stages[PREPARE].state in COMPLETE

    def actions(self, wish: Wish) -> Actions:
        """What follows now."""
        return lifecycle.next_actions(self.plan, self.records, wish, self.job.spec.active_deadline_seconds)

    def open(self) -> Iterator[tuple[PlannedStage, Attempt]]:
        """Attempts that have not ended."""
        for planned in self.plan.stages:
            attempt = self.attempt(planned.name)
            if attempt is not None:
                yield planned, attempt

    def attempt(self, stage: str) -> Attempt | None:
        """The stage's attempt that has not ended, if there is one."""
        attempts = self.stages[stage].attempts
        return attempts[-1] if attempts and attempts[-1].state in OPEN else None

    def child(self, stage: str, number: int) -> str:
        """Name of an attempt's objects."""
        return naming.child(self.job.metadata.name, self.uid, stage, number)

    def gang(self, stage: str, number: int) -> AttemptPods:
        """An attempt's Job and pods."""
        recorded = next((attempt.uid for attempt in self.stages[stage].attempts if attempt.number == number), None)
        return AttemptPods.of(self.child(stage, number), recorded, self.children.jobs, self.children.pods)

    def change(self, stage: str, **changes: Any) -> None:
        """Change a stage's entry."""
        self.stages[stage] = self.stages[stage].model_copy(update=changes)

    def change_attempt(self, stage: str, **changes: Any) -> Attempt:
        """Change the last attempt of a stage."""
        attempts = self.stages[stage].attempts
        last = attempts[-1].model_copy(update=changes)
        self.change(stage, attempts=[*attempts[:-1], last])
        return last

    def add_attempt(self, stage: str, attempt: Attempt) -> None:
        """Put a new attempt on record; older ones than the last few are only counted."""
        self.change(stage, attempts=[*self.stages[stage].attempts, attempt][-MAX_ATTEMPTS:])

    def tell(self, reason: str, note: str, *, warning: bool = False) -> None:
        """Make an event of it."""
        self.out.events.append(Event(reason, naming.cut(note), warning))

    def wake(self, then: datetime) -> None:
        """Look again at that time."""
        self.out.wake(then, self.now)

    def sure(self, look: LiveRead) -> bool:
        """Whether what the children say was read from the API server itself, not from a cache; else it is asked for."""
        if look in self.children.live_reads or (look.what == "Claim" and look.name in self.children.claims):
            return True
        if look not in self.out.look:
            self.out.look.append(look)
        return False

    def explanation(self, look: LiveRead) -> str | None:
        """Words that explain why something waits, once they are known."""
        self.out.explain.append(look)
        return self.children.explanations.get(look)


def record_of(stage: StageStatus) -> StageRecord:
    """A stage of the status, for the lifecycle."""
    last = stage.attempts[-1] if stage.attempts else None
    if stage.state != "Failed":
        return StageRecord(stage.state, 0 if last is None else last.number + 1, stage.restarts)
    same_reason = last is not None and last.reason == stage.reason
    return StageRecord(
        stage.state,
        0 if last is None else last.number + 1,
        stage.restarts,
        last.exit_code if last is not None and stage.reason not in reasons.INTENTS else None,
        stage.reason or "",
        (last.message if last is not None and same_reason else stage.message) or "",
    )
