"""A program in the background: its pid and log in files, so that another command can stop or pause it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TAIL = 2000
ENVIRONMENT = {"GOGC": "400"}
"""By default an API server spends about a third of its start on collecting garbage, to save memory."""

THREADS = 17
"""Place of the number of threads in what `_stat` gives."""


class Died(Exception):
    """A program that should run does not; the message ends with the end of its log."""


class Process:
    """One program."""

    def __init__(self, name: str, command: Callable[[], Sequence[str | Path]], folder: Path) -> None:
        self.name = name
        self.command = command  # asked at its start: what is never started need not be built
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid_file(self) -> Path:
        """Holds its pid while it should run."""
        return self.folder / f"{self.name}.pid"

    @property
    def log(self) -> Path:
        """What it wrote, over all its starts."""
        return self.folder / "log" / f"{self.name}.log"

    def start(self) -> None:
        """Start it, in a session of its own."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [str(part) for part in self.command()],
                cwd=self.folder,
                env={**ENVIRONMENT, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid_file.write_text(str(self._child.pid))

    def pid(self) -> int | None:
        """Its pid, while it runs."""
        if self._child is not None:
            self._child.poll()  # a child that ended stays a zombie until it is asked
        return living(self.pid_file)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, if it runs; after SIGKILL it is gone, and its port free."""
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if number == signal.SIGKILL:
                wait(lambda: self.pid() is None, 60)

    def pause(self) -> None:
        """Stop it where it stands; its sockets stay open."""
        self.kill(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.kill(signal.SIGCONT)

    def stop(self, seconds: float = 10) -> None:
        """End it: asked first, killed when it does not obey."""
        self.resume()
        self.kill(signal.SIGTERM)
        if not wait(lambda: self.pid() is None, seconds):
            self.kill()
            wait(lambda: self.pid() is None, seconds)
        self.pid_file.unlink(missing_ok=True)

    def until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it is ready.

        Raises:
            Died: it ended, or was not ready in time.
        """
        if wait(lambda: self.pid() is None or ready(), seconds) and self.pid() is not None:
            return
        end = "ended" if self.pid() is None else f"was not ready within {seconds:g} s"
        text = self.log.read_bytes()[-TAIL:].decode(errors="replace") if self.log.exists() else ""
        raise Died(f"{self.name} {end}; the end of {self.log}:\n{text}")


def living(pid_file: Path) -> int | None:
    """The pid in a file, if that process still runs; a pid given anew to a younger program does not count."""
    try:
        pid = int(pid_file.read_text())
        state = _stat(pid)
        ended = state[0] == "Z" and int(state[THREADS]) <= 1  # other threads hold its files and ports a moment longer
        started = boot_time() + began(pid) / os.sysconf("SC_CLK_TCK")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if not ended and started <= pid_file.stat().st_mtime + 2 else None


def began(pid: int) -> int:
    """When a process began, in clock ticks since the machine started.

    Raises:
        FileNotFoundError, ProcessLookupError: there is none.
    """
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name of the program; the first is its state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def boot_time() -> int:
    """When this machine started, in seconds since 1970."""
    return next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)


def stop_all(folder: Path) -> None:
    """End every process that left its pid in a folder."""
    for pid_file in folder.glob("*.pid"):
        pid = living(pid_file)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait(lambda file=pid_file: living(file) is None, 60)  # type: ignore[misc]
        pid_file.unlink(missing_ok=True)


def wait(ready: Callable[[], bool], seconds: float) -> bool:
    """Whether something came true within some seconds."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
