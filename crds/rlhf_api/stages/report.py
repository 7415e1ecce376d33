"""`report`: one HTML file of what was trained on what, and what came of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf_api.fields import ApiModel


class Report(ApiModel):
    """One self-contained HTML file over all stages of the job; a job without one gets it last, under this name."""

    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Heading; by default the job's name."""
    intended_use: Annotated[str, Field(max_length=2000)] | None = None
    """Printed as given; without it the report says "not disclosed"."""
    contact: Annotated[str, Field(max_length=200)] | None = None
    """Whom to ask; printed as given."""
