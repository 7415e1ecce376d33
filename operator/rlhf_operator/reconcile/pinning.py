"""What of the platform's configuration a job keeps to its end: pinned by value as it begins.

Profiles are pinned beside it (`profiles.pin`). What the operator does for itself (how often it asks for progress, whom it
admits) is not the job's, and follows the configuration.
"""

from __future__ import annotations

from functools import lru_cache

from rlhf_api.plan import Plan
from rlhf_api.status import JobStatus, Platform
from rlhf_operator.reconcile.identity import ById
from rlhf_operator.reconcile.settings import CPU, Settings

KEPT = 256
"""Configurations that are kept: as many as jobs began under."""
UNBOUNDED = 0


def platform(settings: Settings) -> Platform:
    """The pins of a job that begins now."""
    timings = settings.timings
    return Platform(
        defaultProfile=settings.default_profile,
        fsGroup=settings.fs_group or 0,
        metricsPort=settings.metrics_port,
        grace=timings.grace,
        graceMargin=timings.grace_margin,
        backoff=timings.backoff,
        backoffLimit=timings.backoff_limit,
        maxDisruptions=settings.max_disruptions,
        pendingTimeout=settings.pending_timeout or UNBOUNDED,
    )


def adopt(status: JobStatus, plan: Plan, settings: Settings) -> JobStatus:
    """The status of a job that began under an operator that pinned less: the rest is pinned as it is now.

    It gets no time limit that it did not begin with: that might have passed long ago.
    """
    if status.plan_version is None or status.platform is not None:
        return status
    changes = {"default_profile": _default(status, plan, settings), "pending_timeout": UNBOUNDED}
    return status.model_copy(update={"platform": platform(settings).model_copy(update=changes)})


def effective(settings: Settings, status: JobStatus) -> Settings:
    """The configuration as it is for this job."""
    if status.platform is None:
        return settings
    return _effective(ById(settings), status.platform, status.image)


@lru_cache(maxsize=KEPT)
def _effective(of_settings: ById[Settings], pinned: Platform, image: str | None) -> Settings:
    settings = of_settings.value
    timings = {name: getattr(pinned, name) for name in ("grace", "grace_margin", "backoff", "backoff_limit")}
    changes = {
        "image": image or settings.image,
        "default_profile": pinned.default_profile,
        "fs_group": pinned.fs_group or None,
        "metrics_port": pinned.metrics_port,
        "max_disruptions": pinned.max_disruptions,
        "pending_timeout": pinned.pending_timeout or None,
        "timings": settings.timings.model_copy(update=timings),
    }
    return settings.model_copy(update=changes)


def _default(status: JobStatus, plan: Plan, settings: Settings) -> str:
    """The default profile by which the job began: of the profiles that it pinned, the one that no stage names."""
    named = {stage.profile for stage in plan.stages}
    unnamed = [name for name in status.profiles if name not in named]
    if unnamed:
        return unnamed[0]
    return settings.default_profile if settings.default_profile in status.profiles else CPU
