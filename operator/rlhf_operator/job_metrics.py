"""Metrics of jobs and stages: read off the cache at every scrape, so that a job's are gone with it.

Of finished jobs, and of those too large to be kept in memory, only the phase is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rlhf_api.stages.ppo import Lagrange
from rlhf_operator import projections
from rlhf_operator.reconcile.policy.ttl import FINISHED
from rlhf_operator.runtime.kinds import Object

log = logging.getLogger(__name__)

_STAGE = ["namespace", "rlhfjob", "stage"]


class JobMetrics(Collector):
    """Tells of every job that `jobs` gives, packed as caches keep them."""

    def __init__(self, jobs: Callable[[], Iterable[Object]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """All families."""
        phase = GaugeMetricFamily("rlhf_job_phase", "1: the job is in this phase.", labels=[*_STAGE[:2], "phase"])
        active = GaugeMetricFamily(
            "rlhf_job_active_seconds", "Active time accumulated so far, as the deadline counts it.", labels=_STAGE[:2]
        )
        stages = _Stages()
        for projection in self._jobs():
            metadata = projection["metadata"]
            names = [metadata.get("namespace") or "", metadata["name"]]
            phase.add_metric([*names, str(projection.get("phase") or "Pending")], 1)
            if projection.get("phase") in FINISHED or projections.is_large(projection):
                continue
            try:
                self._running(projections.unpacked(projection), names, active, stages)
            except Exception:  # of one job: the others' metrics are told all the same
                log.debug("%s: not all of its metrics can be told", "/".join(names), exc_info=True)
        yield phase
        yield active
        yield from stages.families

    @staticmethod
    def _running(raw: Object, names: list[str], active: GaugeMetricFamily, stages: _Stages) -> None:
        status = raw.get("status") or {}
        active.add_metric(names, float(status.get("activeSeconds") or 0))
        for stage in status.get("stages") or ():
            stages.add(names, stage)
        for stage in (raw.get("spec") or {}).get("stages") or ():
            stages.bounds(names, stage)

    def describe(self) -> Iterator[Metric]:
        """Nothing is told in advance: the cache may be empty."""
        yield from ()


class _Stages:
    """The families of stages."""

    def __init__(self) -> None:
        self._state = GaugeMetricFamily("rlhf_stage_state", "1: the stage is in this state.", labels=[*_STAGE, "state"])
        self._step = GaugeMetricFamily("rlhf_stage_step", "Steps done.", labels=_STAGE)
        self._steps = GaugeMetricFamily("rlhf_stage_steps", "Steps to do.", labels=_STAGE)
        self._restarts = CounterMetricFamily(
            "rlhf_stage_restarts", "Restarts that count against maxRestarts.", labels=_STAGE
        )
        self._lambda = GaugeMetricFamily(
            "rlhf_stage_lambda_bound", "The most a cost's multiplier may be.", labels=[*_STAGE, "cost"]
        )
        self._target = GaugeMetricFamily("rlhf_stage_kl_target", "KL that the stage aims at, in nats.", labels=_STAGE)

    @property
    def families(self) -> Iterator[Metric]:
        """All of them."""
        yield from (self._state, self._step, self._steps, self._restarts, self._lambda, self._target)

    def add(self, names: list[str], stage: dict[str, Any]) -> None:
        """What a stage's status says."""
        labels = [*names, str(stage["name"])]
        self._state.add_metric([*labels, str(stage["state"])], 1)
        self._restarts.add_metric(labels, float(stage.get("restarts") or 0))
        progress = stage.get("progress")
        if progress:
            self._step.add_metric(labels, float(progress.get("step") or 0))
            self._steps.add_metric(labels, float(progress.get("total") or 0))

    def bounds(self, names: list[str], stage: dict[str, Any]) -> None:
        """What a PPO stage is held to, where its spec says so."""
        ppo = stage.get("ppo")
        if not isinstance(ppo, dict):
            return
        labels = [*names, str(stage.get("name") or "")]
        target = (ppo.get("kl") or {}).get("target")
        if target is not None:
            self._target.add_metric(labels, float(target))
        for cost in ppo.get("costs") or ():
            function = str(cost.get("function") or "").rpartition(":")[2]  # names as `Scorer.label` has them
            name = cost.get("name") or cost.get("input") or cost.get("stage") or function
            bound = (ppo.get("lagrange") or {}).get("max", Lagrange().max)
            self._lambda.add_metric([*labels, str(name)], float(bound))
