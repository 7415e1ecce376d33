"""Status as it is stored, maybe by a newer operator: what this one cannot read is left out where nothing depends on it.

Fields that are not known are ignored everywhere. Values that are not known:

- phase, stage, progress and conditions are written anew at each look: left out;
- in a pinned profile they are left out, and the job's Ready condition says which;
- anything else decides what may be started or deleted (states, attempts, what prepare found): the job is left as it is,
  and says so.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import orjson
from pydantic import ValidationError

from rlhf_api.error_messages import findings_of
from rlhf_api.errors import Finding, Loc, format_path
from rlhf_api.status import JobStatus
from rlhf_operator.reconcile.outcome import Raw
from rlhf_operator.reconcile.settings import Profile

ANEW = ("observedGeneration", "phase", "stage", "progress", "conditions")
KEPT = 1024
"""Profiles that are kept in memory."""
ROUNDS = 8
"""To leave out a value may show that another is wrong."""


class UnknownStatus(Exception):
    """A status that this operator cannot read. The message names the field."""


def status_of(raw: Raw) -> JobStatus:
    """The status of a job.

    Raises:
        UnknownStatus: what matters of it cannot be read.
    """
    value = raw.get("status") or {}
    try:
        return JobStatus.model_validate(value)
    except ValidationError as error:
        findings = findings_of(error, JobStatus)
    wrong = [finding for finding in findings if not _is_anew(finding.at)]
    if wrong:
        raise UnknownStatus("; ".join(_words("status", finding) for finding in wrong[:4]))
    return JobStatus.model_validate(_without(value, [finding.at for finding in findings]))


@lru_cache(maxsize=KEPT)
def profile_of(name: str, pinned: str) -> tuple[Profile, tuple[str, ...]]:
    """A profile as a job began with it, and what of it is left out, in words.

    Raises:
        UnknownStatus: it is no profile.
    """
    at = f"status.profiles[{name}]"
    try:
        value = orjson.loads(pinned)
    except orjson.JSONDecodeError as error:
        raise UnknownStatus(f"{at}: found no JSON; expected a profile") from error
    left_out: list[str] = []
    for _ in range(ROUNDS):
        try:
            return Profile.model_validate(value), tuple(left_out)
        except ValidationError as error:
            findings = findings_of(error, Profile)
        if not isinstance(value, dict):
            break
        left_out += [_words(at, finding) for finding in findings]
        value = _without(value, [finding.at for finding in findings])
    raise UnknownStatus(f"{at}: cannot be read; expected a profile")


def _is_anew(at: Loc) -> bool:
    return bool(at) and (at[0] in ANEW or (at[0] == "stages" and at[2:3] == ("progress",)))


def _words(root: str, finding: Finding) -> str:
    return f"{root}.{format_path(finding.at)}: {finding.message}"


def _without(value: Raw, paths: list[Loc]) -> Raw:
    """A copy without these values; of a value that is missing without what holds it, of a list's entry without the
    list."""
    result: Any = copy.deepcopy(value)
    for path in paths:
        holders = [result]
        for part in path[:-1]:
            inside = holders[-1]
            present = isinstance(inside, dict) and part in inside
            if not present:
                break
            holders.append(inside[part])
        for part, holder in reversed(list(zip(path, holders, strict=False))):
            if isinstance(holder, dict) and part in holder:
                del holder[part]
                break
    return dict(result)
