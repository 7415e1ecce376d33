"""How an attempt on this machine ended, for the lifecycle: pure."""

from __future__ import annotations

from rlhf_api.contract import DEADLINE, DONE, FAILURE, FINAL_CODES, NO_PRODUCT, STOPPED, WORLD_SIZE_CHANGED
from rlhf_api.lifecycle import AttemptResult, describe_exit, reason_of
from rlhf_sdk.local.files import Termination


def result_of(
    code: int, termination: Termination, *, wrong: str | None = None, stop: tuple[str, str] | None = None
) -> AttemptResult:
    """The result of an attempt.

    Args:
        code: the launcher's exit code, 128 + n for signal n.
        termination: its own words.
        wrong: what is wrong with what it made, although it ended well; None: nothing.
        stop: reason and message, where it had been asked to stop.
    """
    if code == DONE and wrong is None:
        return AttemptResult("Complete", termination.reason, exit_code=code)
    if code == DONE:
        return AttemptResult("Failed", NO_PRODUCT, wrong or "", FAILURE)
    reason, message = termination.reason or reason_of(code), termination.message or describe_exit(code)
    if code in FINAL_CODES:
        return AttemptResult("Failed", reason, message, code, final=reason != WORLD_SIZE_CHANGED)
    if stop is None:
        return AttemptResult("Failed", reason, message, code)
    if stop[0] == DEADLINE:
        return AttemptResult("Failed", *stop, final=True)
    return AttemptResult("Stopped", stop[0], "" if code == STOPPED else message, code)
