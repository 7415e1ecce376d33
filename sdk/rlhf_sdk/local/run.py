"""A run of a job on this machine as its runner knows it: options, plan, and the state that each change saves and shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_api.job import RLHFJob
from rlhf_api.lifecycle import Records
from rlhf_api.plan import Resolved, plan
from rlhf_sdk.local import process
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.locks import FileLock
from rlhf_sdk.local.scheduler import Budget, backoff
from rlhf_sdk.local.state import RunState, load, resumed, save
from rlhf_sdk.local.view import View


@dataclass(frozen=True)
class Options:
    """How to run."""

    budget: Budget
    """Cores and memory."""
    command: Sequence[str] = process.TRAINER
    """What computes a stage; its last argument will be the stage file."""
    grace: float = 120.0
    """Seconds a stage has for its checkpoint once this runner is gone."""
    wait: Callable[[int], float] = backoff
    """Seconds before a restart, by the number of restarts."""
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """Environment of the stages."""


class Run:
    """What the runner knows of its run."""

    resolving: FileLock
    """Held until the index of runs names what this run uses."""

    def __init__(self, job: RLHFJob, file: Path, layout: Layout, options: Options, view: View) -> None:
        """Take up what an earlier run left; for the arguments see `Runner`.

        Raises:
            ValueError: the state an earlier run left cannot be read.
        """
        self.job = job
        self.folder = file.resolve().parent
        self.layout = layout
        self.options = options
        self.view = view
        self.plan = plan(job)
        self.resolved: Resolved | None = None
        self.not_before: dict[str, float] = {}
        """When a stage may start again, on the monotonic clock."""
        self._counted: float | None = None
        fresh = RunState(
            job=job.metadata.name,
            namespace=job.metadata.namespace or "default",
            uid=layout.uid,
            jobFile=str(file.resolve()),
            pid=os.getpid(),
            cores=options.budget.cores,
            started=time.time(),
        )
        self.state = resumed(load(layout.state), self.plan, fresh)

    @property
    def records(self) -> Records:
        """What the lifecycle is told of each stage."""
        return {name: stage.record for name, stage in self.state.stages.items()}

    def count_time(self, *, active: bool) -> None:
        """Add what has passed since the last call to stages that run and, if some do, to the run."""
        now = time.monotonic()
        passed = 0.0 if self._counted is None else now - self._counted
        self._counted = now
        stages = {
            name: stage.model_copy(update={"seconds": stage.seconds + passed}) if stage.running else stage
            for name, stage in self.state.stages.items()
        }
        seconds = self.state.active_seconds + (passed if active else 0.0)
        self.state = self.state.model_copy(update={"stages": stages, "active_seconds": seconds})

    def change(self, name: str, **changes: object) -> None:
        """Change a stage's state."""
        before = self.state.stages[name].state
        self.state = self.state.with_stage(name, **changes)
        self.save()
        if self.state.stages[name].state != before:
            self.view.stage(name, self.state)

    def save(self) -> None:
        """Write the state down."""
        save(self.layout.state, self.state)
