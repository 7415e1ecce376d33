"""What the end of an attempt means: pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from rlhf_sdk.exits import Exit
from rlhf_sdk.local.files import Termination
from rlhf_sdk.local.state import StageState

FINAL = (Exit.INVALID, Exit.REFUSED)
"""Ends of which another try would make nothing better."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of the stage."""

    changes: dict[str, Any]
    """To its state."""
    restart: bool = False
    """Whether it is to be started again, from its last checkpoint."""


def judge(state: StageState, code: int, said: Termination, wrong: str | None, *, asked: bool, restarts: int) -> Verdict:
    """Judge an attempt that ended.

    Args:
        state: the stage's, before.
        code: the launcher's exit code, 128 + n for signal n.
        said: its own words.
        wrong: what is wrong with what it made, although it ended well; None: nothing.
        asked: whether it had been asked to stop.
        restarts: how many this run allows it.
    """
    if code == Exit.DONE and wrong is None:
        phase = "reused" if said.reason == "Reused" else "done"  # another run made it while this one waited
        return Verdict({"phase": phase, "exit_code": 0, "reason": "", "message": ""})
    if code == Exit.DONE:
        code, said = int(Exit.FAILED), Termination("NoProduct", wrong or "")
    elif asked and code not in FINAL:
        message = "" if code == Exit.STOPPED else said.message or in_words(code)
        return Verdict({"phase": "stopped", "exit_code": code, "reason": "Stopped", "message": message})
    reason = said.reason or signal_name(code) or "Failure"
    ended = {"exit_code": code, "reason": reason, "message": said.message or in_words(code)}
    if code not in FINAL and state.restarts < restarts:
        return Verdict({"phase": "pending", "restarts": state.restarts + 1, **ended}, restart=True)
    return Verdict({"phase": "failed", **ended})


def signal_name(code: int) -> str | None:
    """`SIGKILL` for 137; None when the code is not a signal's."""
    try:
        return signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        return None


def in_words(code: int) -> str:
    """For an end that the trainer could not explain itself."""
    name = signal_name(code)
    if name == "SIGKILL":
        return "killed by the system, most often for want of memory; smaller batches or fewer stages at once need less"
    return f"killed by {name}" if name else "ended without a word; see the log"
