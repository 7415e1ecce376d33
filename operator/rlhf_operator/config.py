"""The operator's configuration file: what the chart's values become."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import orjson
from pydantic import Field, ValidationError, model_validator

from rlhf_api.base import ApiModel
from rlhf_api.fields import ObjectName
from rlhf_api.yaml import load_yaml
from rlhf_operator.reconcile.settings import Settings
from rlhf_operator.runtime.election import Timing

Port = Annotated[int, Field(ge=0, le=65535)]


class Work(ApiModel):
    """How the operator works."""

    workers: Annotated[int, Field(ge=1, le=256)] = 8
    """Jobs reconciled side by side."""
    qps: Annotated[float, Field(gt=0)] = 50
    """Requests a second to the API server."""
    burst: Annotated[int, Field(ge=1)] = 100
    """Requests at once before that bound holds."""
    progress_per_second: Annotated[float, Field(gt=0)] = 5
    """Polls of progress, and writes of it, a second over all jobs."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is logged."""
    metrics_port: Port = 8080
    """Of /metrics; 0: any free one."""
    health_port: Port = 8081
    """Of /healthz and /readyz; 0: any free one."""


class LeaderElection(ApiModel):
    """The Lease by which one replica reconciles."""

    namespace: ObjectName = "default"
    """Where it lies."""
    name: ObjectName = "rlhf-operator"
    """Its name."""
    lease_duration_seconds: Annotated[float, Field(gt=0)] = 15
    """How long others wait for a holder that is silent."""
    renew_deadline_seconds: Annotated[float, Field(gt=0)] = 10
    """How long the holder goes on without a renewal."""
    retry_period_seconds: Annotated[float, Field(gt=0)] = 2
    """Between two tries."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        self.timing  # noqa: B018 - refuses an order in which two might lead at once
        return self

    @property
    def timing(self) -> Timing:
        """The same, as the elector takes it."""
        return Timing(self.lease_duration_seconds, self.renew_deadline_seconds, self.retry_period_seconds)


class Config(ApiModel):
    """The whole file."""

    watch: list[ObjectName] = Field(default_factory=list)
    """Namespaces whose jobs are reconciled; empty: all."""
    operator: Work = Work()
    """How the operator works."""
    leader_election: LeaderElection = LeaderElection()
    """The Lease."""
    settings: Settings
    """What jobs are run with."""


def load(path: Path) -> Config:
    """Read the configuration.

    Raises:
        ValueError: it cannot be read, is no YAML, or a field is wrong; names the field.
    """
    try:
        document = load_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if document.problems:
        raise ValueError("\n".join(problem.render(str(path)) for problem in document.problems))
    try:
        return Config.model_validate_json(orjson.dumps(document.value))  # as JSON: 50 is a float, too
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
        raise ValueError("\n".join(lines)) from error
