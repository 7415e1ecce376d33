"""Libraries that read models: their complaints in our words, their progress bars and reports kept out of the logs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_trainer.exits import InputError, StageError

OUT_OF_MEMORY = "OutOfMemoryError"
"""torch's, by its name: who reads a tokenizer has not imported torch."""
PANIC = "PanicException"
"""What Rust libraries raise where they did not expect to fail; no Exception, and importable from nowhere."""


def quiet() -> None:
    """Keep transformers' progress bars and load reports out of the ranks' logs; errors are raised, not printed."""
    from transformers.utils import logging as reports

    reports.set_verbosity_error()
    reports.disable_progress_bar()


@contextmanager
def explained(path: str | Path, what: str) -> Iterator[None]:
    """Turn a library's complaint about a model into an InputError that names the model.

    On damaged files libraries raise whatever they meet: TypeError, AttributeError, their own.
    """
    try:
        yield
    except (MemoryError, StageError):
        raise
    except BaseException as error:
        if type(error).__name__ == OUT_OF_MEMORY:
            raise
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or not (isinstance(error, Exception) or type(error).__name__ == PANIC):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        problem = " ".join(map(str.strip, lines[: 2 if lines[0].endswith(":") else 1]))
        raise InputError(f"{path}: not a readable {what}: {problem}") from error
