"""`report`: one HTML file of what was trained on what, and what came of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf_api.base import ApiModel
from rlhf_api.fields import MAX_ITEMS, Name


class FilledAudit(ApiModel):
    """The audit sample of a `simulate` stage, filled in by people."""

    stage: Name
    """The stage whose `audit.jsonl` it was."""
    input: Name
    """The input that is the file as people filled it in."""


class Report(ApiModel):
    """One self-contained HTML file over all stages of the job; a job without one gets it last, under this name."""

    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Heading; by default the job's name."""
    intended_use: Annotated[str, Field(max_length=2000)] | None = None
    """Printed as given; without it the report says "not disclosed"."""
    contact: Annotated[str, Field(max_length=200)] | None = None
    """Whom to ask; printed as given."""
    audits: Annotated[list[FilledAudit], Field(max_length=MAX_ITEMS)] = []
    """Filled-in audit samples: the report says how far people agree with the labels. Others make no row anew."""
