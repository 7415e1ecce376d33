"""A model's check of rows within limits: its template and tokenizer are somebody else's, and may never end for one row.

Rows are checked in a child process, one after the other, until one of them ends it; the next begins another child. It is
forked: so it has the tokenizer as it stands, and costs some milliseconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rlhf_trainer.data.conversion import Check
from rlhf_trainer.data.template import TemplateProblem, reason_of
from rlhf_trainer.exits import InputError

ROW = 5.0
"""Seconds of the processor that a row may take, besides TURN for each of its turns."""
TURN = 0.05
"""Seconds for each turn: templates render a dialogue once for each of its turns."""
ALL = 30.0
"""Seconds of the processor that all rows of a use may take, besides TURN for each of their turns."""
MEMORY = 512 << 20
"""Bytes of address space for a row, besides what the process has."""

_fork = multiprocessing.get_context("fork")


class Limited:
    """A check in a child process, which ends with this context.

    Called with a row, it raises TemplateProblem where the check refuses the row, or takes too long or too much memory for
    it; InputError where it takes too long for all rows together.
    """

    def __init__(self, check: Check, model: str) -> None:
        """`model` is what messages call the model."""
        self._check, self._model = check, model
        self._child: tuple[BaseProcess, Connection] | None = None
        self._rows, self._seconds, self._allowed = 0, 0.0, ALL
        self._slowest: tuple[float, str] = (0.0, "")

    def __enter__(self) -> Limited:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, row: Any) -> None:
        """Check a row."""
        allowance = TURN * len(getattr(row, "messages", None) or row.prompt)
        problem, seconds = self._ask(row, ROW + allowance)
        self._rows += 1
        self._allowed += allowance
        self._seconds += seconds
        self._slowest = max(self._slowest, (seconds, str(row.row)))
        if self._seconds > self._allowed:
            slowest, name = self._slowest
            raise InputError(
                f"the chat template of {self._model} takes too long: {self._seconds:.3g} s of the processor for {self._rows} "
                f"rows, {slowest:.3g} s for {name} alone; expected at most {ALL:g} s, and {TURN:g} s a turn. Leave "
                "such rows out, or give a model whose template writes them sooner"
            )
        if problem is not None:
            raise TemplateProblem(f"{problem} (model: {self._model})")

    def _ask(self, row: Any, limit: float) -> tuple[str | None, float]:
        """(what is wrong with a row, seconds of the processor that this took)."""
        process, connection = self._child or self._start()
        try:
            connection.send((row, limit))
            problem, seconds = connection.recv()
        except (EOFError, OSError):
            process.join()
            code = process.exitcode
            self._end()
            if code == -signal.SIGPROF:
                return f"the chat template takes more than {limit:g} s of the processor to write it", limit
            return f"the chat template ended the process that wrote it (exit code {code})", 1.0
        return problem, seconds

    def _start(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = _fork.Pipe()
        process = _fork.Process(target=_serve, args=(self._check, theirs, ours), daemon=True)
        process.start()
        theirs.close()
        self._child = (process, ours)
        return self._child

    def _end(self) -> None:
        if self._child is None:
            return
        process, connection = self._child
        self._child = None
        connection.close()
        process.kill()  # its siblings hold its pipe too: closing ours would not end it
        process.join()
        process.close()


def _serve(check: Check, connection: Connection, callers: Connection) -> None:
    """The child: check what comes, each within its limit, until the caller is gone or ends it."""
    callers.close()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what allocators say of an end that the caller puts into words
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a thread a core, whose stacks and heaps alone would be the limit
    _limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            row, limit = connection.recv()
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, limit)
            problem = _problem(check, row)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send((problem, time.process_time() - start))


def _problem(check: Check, row: Any) -> str | None:
    try:
        check(row)
    except TemplateProblem as problem:
        return str(problem)
    except MemoryError:
        return f"takes more than {MEMORY >> 20} MiB to be written"
    except Exception as error:  # noqa: BLE001 - a tokenizer is somebody else's program too
        return f"cannot be written: {type(error).__name__}: {reason_of(error)}"
    return None


def _limit_memory() -> None:
    """On Linux, whose /proc says what the process has; other systems hardly keep to such a limit."""
    if sys.platform != "linux":
        return
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = size + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
