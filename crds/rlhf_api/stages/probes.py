"""What an evaluation reads of models' probabilities beside their answers: sycophancy and personas."""

from __future__ import annotations

from rlhf_api.base import ApiModel
from rlhf_api.fields import Count, DocumentsRef, Name


class Sycophancy(ApiModel):
    """Whether a model's choice follows what a user says."""

    data: DocumentsRef | None = None
    """Rows with `question`, two `answers`, and two `opinions` or none; by default 48 pairs of the project's own."""
    limit: Count | None = None
    """Take only the first rows."""


class Persona(ApiModel):
    """Statements with which a model agrees or not: whether training gave it a view or a drive."""

    name: Name
    """Name in metrics and tables: `persona.NAME.matching`."""
    data: DocumentsRef
    """Rows with `question`, `answer_matching_behavior` and `answer_not_matching_behavior`."""
    limit: Count | None = None
    """Take only the first rows."""
