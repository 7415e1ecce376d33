"""Stands over one stage's processes so that none outlives the run. Standard library only; started by its path.

    guard.py --alive FD --grace SECONDS --log FILE -- COMMAND...

The runner holds the other end of the pipe FD. When it closes - the runner ended, or was killed with SIGKILL - the
stage gets SIGTERM, after the grace period SIGKILL. SIGTERM to the guard is passed on to the stage; SIGTERM again kills
at once. Ranks are sessions of their own (torch's agent makes them so), which no process group reaches: on Linux the
guard is their subreaper, so whoever loses its parent becomes the guard's child and is ended with it. The guard's exit
code is the stage's, 128 + n for signal n.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the pipe and the process group must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _parents() -> dict[int, int]:
    """Parent of every process that can be seen."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.parent.name)] = int(text.rpartition(")")[2].split()[1])
    return parents


def descendants(root: int) -> set[int]:
    """All processes below `root`, itself left out."""
    parents = _parents()
    below: set[int] = set()
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if (parent == root or parent in below)} - below
        below |= more
        grown = bool(more)
    return below


def kill_all(group: int) -> None:
    """End every process below this one and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    while True:
        for child in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            select.select([], [], [], 0.01)


def main(arguments: list[str]) -> int:
    """Run the command, watch, end it when told to or when nobody is left to tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--alive", type=int, required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    requests = [0]

    def on_term(*_: object) -> None:
        requests[0] += 1

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    with open(options.log, "ab", buffering=0) as log:  # noqa: PTH123 - one of the first things a broken start needs
        child = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # safe: one thread only
        )
    watched = [wake_read, options.alive]
    handled = 0
    deadline: float | None = None
    while child.poll() is None:
        if requests[0] > handled:
            handled = requests[0]
            if handled > 1:
                break
            child.terminate()
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if wait == 0.0:
            break
        readable, _, _ = select.select(watched, [], [], wait)
        if wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        if options.alive in readable:  # the runner is gone: the pipe's other end has closed
            watched = [wake_read]
            deadline = time.monotonic() + options.grace
            if handled == 0:
                handled = requests[0] = 1
                child.terminate()
    code = child.poll()
    kill_all(child.pid)
    if code is None:
        return 128 + signal.SIGKILL
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # Not sys.exit: Python's own end gives SIGTERM its default back, and one that comes late would hide the exit code.
    os._exit(main(sys.argv[1:]))
