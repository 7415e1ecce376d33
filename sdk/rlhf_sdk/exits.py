"""Exit codes of the `rlhf` command: those of the trainer's contract, one level up."""

from __future__ import annotations

from enum import IntEnum

from rlhf_api import contract


class Exit(IntEnum):
    """What a script can rely on."""

    DONE = contract.DONE
    """Everything asked for is there."""
    FAILED = contract.FAILURE
    """A stage failed, or the command could not do its work."""
    INVALID = contract.WRONG_INPUT
    """The job file, an input or an argument is wrong: mend it first, running again will not help."""
    REFUSED = contract.GUARD
    """A guard tripped or a gate failed: the computation worked, its result is not good enough."""
    STOPPED = contract.STOPPED
    """Stopped on request (SIGTERM, SIGHUP) with checkpoints: run again to go on."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C, with checkpoints if it was pressed once: run again to go on."""


HELP = (
    "Exit codes: 0 done; 1 failed; 2 job file, input or argument wrong; 3 a guard tripped or a gate failed; "
    "75 stopped with checkpoints; 130 stopped by Ctrl-C."
)
"""For the end of every command's help."""


class CommandError(Exception):
    """Ends the command with words on stderr."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code
