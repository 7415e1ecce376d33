"""The annotation rlhf.dev/retry: a new value starts a failed job again, from its failed stage."""

from __future__ import annotations

from rlhf_operator.reconcile import naming, reasons
from rlhf_operator.reconcile.outcome import Raw
from rlhf_operator.reconcile.run import DONE, Run


def value(raw: Raw) -> str | None:
    """The annotation."""
    text = (raw["metadata"].get("annotations") or {}).get(naming.RETRY)
    return None if text is None else str(text)[:253]


def asked(raw: Raw) -> bool:
    """Whether it has a value that was not acted on."""
    found = value(raw)
    return found is not None and found != (raw.get("status") or {}).get("retry")


def acknowledge(run: Run, *, failed: bool) -> None:
    """Act on a new value: start a failed job again; of one that goes well, there is nothing to do.

    While a failed job winds up the value waits: it is meant for what comes after.
    """
    if not asked(run.raw) or (run.winding_up and not failed):
        return
    if failed:
        _again(run)
    run.status = run.status.model_copy(update={"retry": value(run.raw)})


def _again(run: Run) -> None:
    names = [name for name, stage in run.stages.items() if stage.state == "Failed"]
    for name, stage in run.stages.items():
        if stage.state in DONE and stage.type != "report":
            continue
        run.change(name, state="Waiting", reason=None, message=None, end_time=None, restarts=0, progress=None)
        if stage.attempts:
            run.change(name, counts_from=stage.attempts[-1].number + 1)
    run.status = run.status.model_copy(update={"completion_time": None})
    run.tell(reasons.RETRIED, f"started again from {', '.join(names)}")
