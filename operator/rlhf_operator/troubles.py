"""Jobs whose reconciles keep failing: counted, and after a few tries reported in the conditions of the job."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_operator.reconcile import reasons
from rlhf_operator.runtime.errors import ApiError, Conflict, Fenced, RequestFailed, Unreachable
from rlhf_operator.runtime.kinds import Key

TRIES = 3
"""Failures in a row after which the status says so."""
PASSING = frozenset({401, 404, 408, 409, 429})
"""Transient refusals, retried silently: they are no verdict on an object. A webhook may choose its code; without one it
is 400."""


@dataclass(frozen=True)
class Trouble:
    """Why the looks at a job fail."""

    reason: str
    message: str


class Troubles:
    """Failures in a row, by job."""

    def __init__(self) -> None:
        self._failures: dict[Key, int] = {}
        self._reported: dict[Key, Trouble] = {}

    def failed(self, key: Key, error: Exception) -> Trouble | None:
        """Count a failure; gives what the job's status must say now, if it does not say so already."""
        if isinstance(error, Conflict | Fenced | Unreachable):
            return None  # an old object, another leader, no API server: nothing is wrong with the job
        if isinstance(error, ApiError) and error.status in PASSING:
            return None
        self._failures[key] = self._failures.get(key, 0) + 1
        trouble = _trouble(error)
        before = self._reported.get(key)
        if self._failures[key] < TRIES or (before is not None and before.reason == trouble.reason):
            return None
        self._reported[key] = trouble
        return trouble

    def reported(self, key: Key) -> Trouble | None:
        """The trouble that the status of the job reports now."""
        return self._reported.get(key)

    def clear(self, key: Key) -> None:
        """A reconcile succeeded, or the job is gone."""
        self._failures.pop(key, None)
        self._reported.pop(key, None)


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, RequestFailed):
        return Trouble(reasons.RECONCILE_ERROR, f"the API server refused {TRIES} times: {error}")
    words = f"the operator failed {TRIES} times: {type(error).__name__}: {error}; its log has the rest"
    return Trouble(reasons.INTERNAL_ERROR, words)
