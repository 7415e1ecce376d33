"""The rules that cross stages: names are unique, references exist, point back and fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_api.fields import ApiModel, ModelRef, Reference, Scorer
from rlhf_api.stages import PREPARE, REPORT, STAGE_TYPES

if TYPE_CHECKING:
    from rlhf_api.job import JobSpec


def check(spec: JobSpec) -> None:
    """Check what one model alone cannot. To be completed with paths (see rlhf_api.errors)."""
    _ = (spec, ApiModel, ModelRef, Reference, Scorer, PREPARE, REPORT, STAGE_TYPES)
