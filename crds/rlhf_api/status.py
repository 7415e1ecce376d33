"""The status of an RLHFJob: written by the operator alone, everything in it bounded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from rlhf_api.base import ApiModel
from rlhf_api.contract import StageState
from rlhf_api.fields import MAX_ITEMS, Name

MAX_STAGES = MAX_ITEMS + 2
"""Those of the spec, `prepare` and the report."""
MAX_ATTEMPTS = 10
"""Attempts of a stage that are kept; older ones are only counted."""

MAX_RETRIES = 64
"""Values of rlhf.dev/retry that are remembered."""

Message = Annotated[str, Field(max_length=4096)]
Reason = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Number = Annotated[int, Field(ge=0)]
Short = Annotated[str, Field(max_length=253)]
AttemptState = Literal["Pending", "Running", "Complete", "Failed", "Disrupted", "Stopped"]


class StatusModel(ApiModel):
    """Lenient where ApiModel is strict: an operator reads what a newer one wrote."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """A condition, as Kubernetes defines it."""

    type: Annotated[str, Field(max_length=64)]
    """Ready, Reconciling, Stalled, Complete, Failed or Suspended."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Reason
    """One word why."""
    message: Message = ""
    """The same for people."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: Number | None = None
    """Generation of the spec it was judged by."""


class Progress(StatusModel):
    """How far a stage is, as its index 0 last told."""

    step: Number
    """Steps done."""
    total: Number
    """Steps to do."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    """Throughput."""
    eta_seconds: Annotated[float, Field(ge=0)] | None = None
    """Time left."""
    headline: Annotated[dict[str, float], Field(max_length=8)] = {}
    """The few metrics that matter, such as loss or cost."""


class Attempt(StatusModel):
    """One gang of pods that computed a stage."""

    number: Number
    """From 0; only grows."""
    state: AttemptState
    """What became of it."""
    uid: Annotated[str, Field(max_length=64)] | None = None
    """UID of its Job, by which its pods are known."""
    reason: Reason | None = None
    """One word why it ended, or why it waits."""
    message: Message | None = None
    """The trainer's, the scheduler's or the kubelet's own words."""
    start_time: Time | None = None
    """When its Job was made."""
    end_time: Time | None = None
    """When its last pod ended; while others are waited for, when the first was seen to have failed."""
    pod: Short | None = None
    """The pod that decided how it ended."""
    node: Short | None = None
    """That pod's node."""
    exit_code: int | None = None
    """That pod's exit code."""
    ranks: Number | None = None
    """Processes of the gang."""
    last_step: Number | None = None
    """Last step seen."""
    lost_steps: Number | None = None
    """Steps computed after the checkpoint that the next attempt began from."""
    counted: bool = False
    """Whether it counts against maxRestarts."""


class StageStatus(StatusModel):
    """One stage."""

    name: Name
    """Its name."""
    type: Annotated[str, Field(max_length=40)]
    """Its type, or prepare."""
    state: StageState
    """What it does now."""
    reason: Reason | None = None
    """One word why."""
    message: Message | None = None
    """The same for people."""
    product: Annotated[str, Field(max_length=128)] | None = None
    """Folder of its product below products/, once known."""
    progress: Progress | None = None
    """How far it is."""
    restarts: Number = 0
    """Attempts that counted against maxRestarts."""
    counts_from: Number | None = None
    """Number of the first attempt after the last retry: disruptions before it count no more."""
    attempts: Annotated[list[Attempt], Field(max_length=MAX_ATTEMPTS)] = []
    """The last attempts."""
    start_time: Time | None = None
    """When its first attempt began."""
    end_time: Time | None = None
    """When it was complete, or failed."""


class Platform(StatusModel):
    """What of the operator's configuration a job runs with to its end, whatever the configuration is by then."""

    default_profile: Name
    """Profile of stages that name none."""
    fs_group: Number = 0
    """Group that owns the storage, where the job does not say; 0: none."""
    metrics_port: Number
    """Of /metrics and /progress."""
    grace: Number
    """Seconds between SIGTERM and SIGKILL of the ranks."""
    grace_margin: Number
    """Seconds more for the launcher to write its summary."""
    backoff: Number
    """Seconds before the first restart."""
    backoff_limit: Number
    """The most seconds before a restart."""
    max_disruptions: Number
    """Disruptions in a row, without a step, after which a stage fails."""
    pending_timeout: Number = 0
    """Seconds a pod may stay pending, where the job does not say; 0: without limit."""


class JobStatus(StatusModel):
    """What the operator knows of a job; all it needs to go on after a restart."""

    observed_generation: Number | None = None
    """Generation of the spec that was last seen."""
    phase: (
        Literal["Pending", "Preparing", "Running", "Suspended", "Complete", "Failed", "Invalid", "Succeeded"] | None
    ) = None
    """The conditions in one word, for people; programs read the conditions. `Succeeded` is `Complete`, of an earlier
    operator."""
    stage: Annotated[str, Field(max_length=1024)] | None = None
    """Stages that run now, or the last one."""
    progress: Annotated[str, Field(max_length=128)] | None = None
    """Steps done of the running stage, and the time left."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    """Ready, Reconciling, Stalled, Complete, Failed, Suspended."""
    stages: Annotated[list[StageStatus], Field(max_length=MAX_STAGES)] = []
    """One entry a stage, in the plan's order."""
    resolved: Annotated[str, Field(max_length=4096)] | None = None
    """What `prepare` found, in the compact form of the plan."""
    image: Annotated[str, Field(max_length=1024)] | None = None
    """Image by digest that this job runs to its end, whatever the operator's is by then."""
    plan_version: Annotated[str, Field(max_length=40)] | None = None
    """Version of the plan that this job runs to its end."""
    profiles: Annotated[dict[str, Annotated[str, Field(max_length=16384)]], Field(max_length=MAX_ITEMS)] = {}
    """The platform's presets this job began with, as JSON, by name."""
    platform: Platform | None = None
    """The platform's settings this job began with."""
    start_time: Time | None = None
    """When the first Job was made."""
    completion_time: Time | None = None
    """When the job was complete, or failed."""
    active_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Active time accumulated up to `activeSince`; what activeDeadlineSeconds counts."""
    active_since: Time | None = None
    """Since when an attempt has been unsuspended, if one is."""
    retry: Annotated[str, Field(max_length=253)] | None = None
    """Value of the annotation rlhf.dev/retry that was last acted on."""
    retries: Annotated[list[Short], Field(max_length=MAX_RETRIES)] = []
    """The last of its values that were acted on: none is acted on twice."""
