"""A job as the plan needs it, parsed once for each state of its spec."""

from __future__ import annotations

from typing import Any

import orjson

from rlhf_api.contract import STORAGE_PATH
from rlhf_api.job import RLHFJob
from rlhf_api.load import parse_job
from rlhf_api.plan import Plan, Resolved, plan
from rlhf_api.termination_codec import Told, expand
from rlhf_operator.reconcile.memo import JOBS
from rlhf_operator.reconcile.outcome import Raw


def parse(raw: Raw) -> RLHFJob:
    """The job. Of its metadata only what names it: stage files must not change with labels or annotations.

    Raises:
        SpecError: it is none; names every field.
    """
    metadata = {name: raw["metadata"][name] for name in ("name", "namespace", "uid") if name in raw["metadata"]}
    value = {"apiVersion": raw.get("apiVersion"), "kind": raw.get("kind"), "metadata": metadata}
    document = {**value, "spec": raw.get("spec")}
    try:
        content = orjson.dumps(document)
    except orjson.JSONEncodeError:  # too deep, or a number beyond 64 bits: no valid job
        return parse_job(document)
    return JOBS.value(content)


def resolve(job: RLHFJob, resolved: str | None) -> tuple[Plan, Resolved | None]:
    """The job's plan, with digests once prepare has reported what it found.

    Raises:
        ValueError, KeyError: what prepare reported is not of this job.
    """
    return JOBS.result(job, ("plan", resolved), lambda: _planned(job, resolved))


def _planned(job: RLHFJob, resolved: str | None) -> tuple[Plan, Resolved | None]:
    if resolved is None:
        return plan(job), None
    expanded = expand(job, read_resolved(resolved), STORAGE_PATH)
    return plan(job, expanded), expanded


def read_resolved(text: str) -> Any:
    """Read what prepare reported, from the text in status.

    Raises:
        ValueError: it is no JSON object.
    """
    document = orjson.loads(text)
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")
    wrong = [name for name in Told.__annotations__ if not isinstance(document.get(name, ""), str)]
    if wrong:
        raise ValueError(f"expected text in {', '.join(wrong)}")
    return document
