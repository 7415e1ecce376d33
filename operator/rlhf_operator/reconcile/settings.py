"""The platform's configuration, as far as a reconcile needs it. The chart's values write the same fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from rlhf_api.base import ApiModel
from rlhf_api.errors import Finding
from rlhf_api.fields import Name, Quantity
from rlhf_api.pods import Pod, Resources

CPU = "cpu"
"""The profile of prepare and report. It is always there: without limits, where the platform does not say."""
Patterns = Annotated[list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=256)]


class Profile(ApiModel):
    """A preset of the platform's: where and on what a stage runs."""

    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Trainer image by digest; by default the operator's `image`."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pods of a stage."""
    ranks_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """Processes a pod; by default the devices of `resources`, or 1."""
    resources: Resources = Resources()
    """What a pod asks for."""
    pod: Pod = Pod()
    """Where it runs, and what else it is given."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, which counts as memory."""


class Tenancy(ApiModel):
    """What the jobs of a namespace may name: patterns with * and ?; a list that is not given allows everything."""

    profiles: Patterns | None = None
    """Profiles; the default one counts for jobs that name none."""
    claims: Patterns | None = None
    """Claims: of storage, inputs and volumes; one made from a template by the name it gets, `<job>-storage`."""
    secrets: Patterns | None = None
    """Secrets: of credentials, volumes and image pulls."""
    service_accounts: Patterns | None = None
    """Service accounts."""
    volume_types: Patterns | None = None
    """Kinds of volumes; by default all but `csi` and `ephemeral`, by which a pod has storage that `claims` does not name."""
    priority_classes: Patterns | None = None
    """Priority classes; by default all but Kubernetes' own, `system-...`, whose pods evict all others."""
    runtime_classes: Patterns | None = None
    """Runtime classes."""
    max_pods: Annotated[int, Field(ge=1)] | None = None
    """Pods of a stage."""
    max_devices: Annotated[int, Field(ge=0)] | None = None
    """Devices of a stage: of all its pods together."""


class Timings(ApiModel):
    """Seconds."""

    grace: Annotated[int, Field(ge=1)] = 120
    """Between SIGTERM and SIGKILL of the ranks; the pod has `grace_margin` more."""
    grace_margin: Annotated[int, Field(ge=1)] = 30
    """For the launcher to write its summary."""
    backoff: Annotated[int, Field(ge=1)] = 10
    """Before the first restart; doubled for each further one."""
    backoff_limit: Annotated[int, Field(ge=1)] = 360
    """Longest wait before a restart."""
    explain_after: Annotated[int, Field(ge=1)] = 15
    """After which a Job without pods is explained from its events."""
    poll: Annotated[int, Field(ge=1)] = 15
    """Between two questions for progress."""


class Settings(ApiModel):
    """The operator's configuration."""

    image: Annotated[str, Field(min_length=1, max_length=1024)]
    """Trainer image by digest."""
    profiles: dict[Name, Profile] = Field(default_factory=dict)
    """By name; `cpu` is what prepare and report use."""
    default_profile: Name = CPU
    """Of jobs that name none; one of `profiles`."""
    tenancy: Tenancy = Tenancy()
    """Of namespaces that `namespaces` does not list."""
    namespaces: dict[str, Tenancy] = Field(default_factory=dict)
    """Limits by namespace."""
    kueue: bool = False
    """Whether Kueue is installed."""
    fs_group: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = 10001
    """Group that owns the storage, where a job does not say; null: none, for platforms that choose it."""
    max_disruptions: Annotated[int, Field(ge=1, le=9)] = 8
    """Disruptions of a stage in a row, without a step of progress, after which it fails."""
    metrics_port: Annotated[int, Field(ge=1024, le=65535)] = 8080
    """Of /metrics and /progress in a pod."""
    pending_timeout: Annotated[int, Field(ge=60)] | None = 21600
    """Seconds a pod may stay pending, where a job does not say; null: without limit."""
    timings: Timings = Timings()
    """Seconds."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        profiles = sorted({CPU, *self.profiles})
        if self.default_profile not in profiles:
            message = f"found {self.default_profile}; expected one of the profiles: {', '.join(profiles)}"
            yield Finding(("defaultProfile",), message)

    def tenancy_of(self, namespace: str) -> Tenancy:
        """The limits of a namespace."""
        return self.namespaces.get(namespace, self.tenancy)
