"""How a job is run, and what may change while it runs: restarts, timeouts, overrides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rlhf_api.base import ApiModel, Cel
from rlhf_api.errors import Finding
from rlhf_api.fields import MAX_ITEMS, Count, Name
from rlhf_api.pods import Pod, Resources


class Override(ApiModel):
    """Changes for a stage's attempts to come."""

    cel = (Cel("has(self.resources) || has(self.pod) || has(self.nodes)", "expected resources, pod or nodes"),)

    stage: Name
    """The stage."""
    resources: Resources | None = None
    """Replaces its resources."""
    pod: Pod | None = None
    """Replaces its pod fields."""
    nodes: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Refused for a stage that has a checkpoint."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.resources is None and self.pod is None and self.nodes is None:
            yield Finding((), "changes nothing; expected resources, pod or nodes")


class RunPolicy(ApiModel):
    """How the job is run; may change while it runs."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts a stage, disruptions not counted."""
    pending_timeout: Count | None = None
    """Seconds a pod may stay pending (Kueue's queue not counted) before its attempt fails; by default the platform's, six
    hours unless it says otherwise."""
    stuck_timeout: Count | None = None
    """Seconds without a step before the gang is restarted."""
    lost_node_timeout: Count = 300
    """Seconds after which a pod on a lost node is taken for dead."""
    keep: Literal["products", "finished", "everything"] = "products"
    """What stays: products; with the work directories of failed stages (`finished`); or everything."""
    delete_after_finished: bool = False
    """Whether the TTL deletes the RLHFJob itself, not only its children."""
    overrides: Annotated[list[Override], Field(max_length=MAX_ITEMS)] = []
    """Changes for attempts to come, keyed by stage."""
