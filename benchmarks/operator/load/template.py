"""The children of any job, filled into the text of one job's. No dependencies: the kopf operator reads it too."""

from __future__ import annotations

import hashlib
import json
from typing import Any

NAME, UID = "name-of-the-template", "uid-of-the-template"


def child(job: str, uid: str, stage: str) -> str:
    """A name like the operator's."""
    return f"{job}-{stage}-{hashlib.sha256(f'{uid}/{stage}'.encode()).hexdigest()[:8]}-a0"


def text_of(stages: list[list[dict[str, Any]]]) -> list[dict[str, str]]:
    """The objects of each stage as text in which a job's own names can be put; made of a job called NAME."""
    texts = []
    for objects in stages:
        metadata = objects[-1]["metadata"]
        stage = metadata["labels"]["rlhf.dev/stage"]
        texts.append({"stage": stage, "text": json.dumps(objects).replace(metadata["name"], "<child>")})
    return texts


def filled(stage: dict[str, str], job: str, uid: str) -> list[dict[str, Any]]:
    """The objects of a stage of a job."""
    text = stage["text"].replace("<child>", child(job, uid, stage["stage"])).replace(UID, uid).replace(NAME, job)
    objects: list[dict[str, Any]] = json.loads(text)
    return objects


def path_of(body: dict[str, Any]) -> str:
    """Where the API server takes such an object."""
    group = "apis/batch/v1" if body["kind"] == "Job" else "api/v1"
    plural = {"Job": "jobs", "Service": "services"}[body["kind"]]
    return f"/{group}/namespaces/{body['metadata']['namespace']}/{plural}"


def complete(job: dict[str, Any]) -> bool:
    """Whether a Job has ended well."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Complete" and condition["status"] == "True" for condition in conditions)
