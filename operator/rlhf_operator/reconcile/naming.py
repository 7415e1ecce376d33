"""Names and labels of children: the same for the same job, stage and attempt, whoever computes them."""

from __future__ import annotations

import hashlib
import re

from rlhf_api.names import ATTEMPT as ATTEMPT
from rlhf_api.names import JOB as JOB
from rlhf_api.names import RETRY as RETRY
from rlhf_api.names import STAGE as STAGE
from rlhf_api.names import UID as UID
from rlhf_api.names import claim as claim

MANAGED_BY = "rlhf-operator"
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
OF_KUEUE = (QUEUE, PRIORITY, "kueue.x-k8s.io/max-exec-time-seconds")
"""Labels of a job that its Jobs carry too."""
STAGE_FILE = "rlhf.dev/stage-file"
"""Annotation of a pod: its stage.json, which a volume shows to it as a file."""

_PART = 20
_LABEL = 63


def child(job: str, uid: str, stage: str, attempt: int) -> str:
    """Name of an attempt's Service and Job: a DNS-1035 label of at most 55 characters.

    A pod adds its index to it, and that must fit a hostname's 63.
    """
    start = job.replace(".", "-")[:_PART].rstrip("-")
    if not start[:1].isalpha():
        start = f"j{start}"[:_PART].rstrip("-")
    digest = hashlib.sha256(f"{uid}/{stage}".encode()).hexdigest()[:8]
    return f"{start}-{stage[:_PART].rstrip('-')}-{digest}-a{attempt}"


def label(name: str) -> str:
    """A job's name as the value of a label, which may be shorter."""
    if len(name) <= _LABEL:
        return name
    return f"{name[:52].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def labels(job: str, uid: str, stage: str, attempt: int) -> dict[str, str]:
    """Labels of an attempt's objects. `app.kubernetes.io/instance` is not among them: GitOps tools track by it."""
    return {
        "app.kubernetes.io/name": "rlhf-trainer",
        "app.kubernetes.io/component": "stage",
        "app.kubernetes.io/part-of": "rlhf",
        "app.kubernetes.io/managed-by": MANAGED_BY,
        JOB: label(job),
        UID: uid,
        STAGE: stage,
        ATTEMPT: str(attempt),
    }


def reason(text: str, otherwise: str) -> str:
    """A reason as the schema allows one; `otherwise` where a trainer's word is none."""
    return text if re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", text) and len(text) <= 128 else otherwise


def cut(text: str, most: int = 1024) -> str:
    """A message's start, as much as status has room for."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."
