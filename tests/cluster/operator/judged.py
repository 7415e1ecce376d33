"""What is judged of a job that something happened to: how it ended, and that no stage ran twice at once."""

from __future__ import annotations

from cluster.operator.standin import stage_of
from rlhf_operator.runtime.kinds import Object
from rlhf_operator.runtime.store import Change

End = list[tuple[str, str, str | None, list[tuple[str, str]]]]
"""Of each stage: name, state, product, and of each attempt state and reason."""


def end(status: Object) -> End:
    """How a job ended."""
    return [
        (
            stage["name"],
            stage["state"],
            stage.get("product"),
            [(attempt["state"], attempt.get("reason", "")) for attempt in stage["attempts"]],
        )
        for stage in status["stages"]
    ]


def active(job: Object | None) -> bool:
    """Whether a Job may still start pods."""
    if job is None or "deletionTimestamp" in job["metadata"]:
        return False
    conditions = {condition["type"] for condition in (job.get("status") or {}).get("conditions") or ()}
    return not conditions & {"Complete", "Failed", "FailureTarget"}


def most_active(changes: list[Change]) -> int:
    """Of one stage at one moment, over all that the API server told, in its order."""
    now: dict[str, set[str]] = {}
    most = 0
    for change in changes:
        job = change.new or change.old
        assert job is not None
        names = now.setdefault(stage_of(job), set())
        (names.add if active(change.new) else names.discard)(change.key.name)
        most = max(most, len(names))
    return most
