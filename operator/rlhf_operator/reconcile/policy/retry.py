"""The annotation rlhf.dev/retry: a new value starts a failed job again, from its failed stage."""

from __future__ import annotations

from datetime import timedelta

from rlhf_api.contract import COMPLETE
from rlhf_api.stages import REPORT
from rlhf_api.status import MAX_RETRIES
from rlhf_operator.reconcile import naming, reasons
from rlhf_operator.reconcile.outcome import Raw
from rlhf_operator.reconcile.run import ReconcileContext

SOON = timedelta(seconds=5)
"""After which a value that waits is looked at again."""


def value(raw: Raw) -> str | None:
    """The annotation."""
    text = (raw["metadata"].get("annotations") or {}).get(naming.RETRY)
    return None if text is None else str(text)[:253]


def requested(raw: Raw) -> bool:
    """Whether the annotation has a new value. A tool that restores an old value requests nothing."""
    status = raw.get("status") or {}
    return value(raw) not in (None, status.get("retry"), *(status.get("retries") or ()))


def acknowledge(run: ReconcileContext, *, acted: bool) -> None:
    """Remember a new value that was acted on, or to which nothing is to be done: the job goes well.

    While a stage is failed the value waits: it is meant for what comes after, also where its failure shows only now.
    """
    if not requested(run.raw):
        return
    if run.failed is not None and not acted:
        run.wake(run.now + SOON)  # it may have failed only now: no event brings another look
        return
    requested_value = value(run.raw)
    handled = [former for former in (*run.status.retries, run.status.retry) if former not in (None, requested_value)]
    handled = list(dict.fromkeys(handled))[1 - MAX_RETRIES :]
    run.status = run.status.model_copy(update={"retry": requested_value, "retries": [*handled, requested_value]})


def start_again(run: ReconcileContext) -> None:
    """Start a failed job again, from its failed stages."""
    names = [name for name, stage in run.stages.items() if stage.state == "Failed"]
    for name, stage in run.stages.items():
        if stage.state in COMPLETE and stage.type != REPORT:
            continue
        run.change(name, state="Waiting", reason=None, message=None, end_time=None, restarts=0, progress=None)
        if stage.attempts:
            run.change(name, counts_from=stage.attempts[-1].number + 1)
    run.status = run.status.model_copy(update={"completion_time": None})
    run.tell(reasons.RETRIED, f"started again from {', '.join(names)}")
