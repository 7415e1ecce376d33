"""Names that the operator gives to what it makes, and by which others find it."""

from __future__ import annotations

JOB = "rlhf.dev/job"
UID = "rlhf.dev/uid"
STAGE = "rlhf.dev/stage"
ATTEMPT = "rlhf.dev/attempt"
RETRY = "rlhf.dev/retry"
"""Annotation of an RLHFJob: a new value starts a failed one again."""

CONTAINER = "trainer"
"""The trainer's container in a pod of a stage."""


def claim(job: str) -> str:
    """Name of the claim made from a job's template: an edited job created again finds it."""
    return f"{job[:240].rstrip('-.')}-storage"
