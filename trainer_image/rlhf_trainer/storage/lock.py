"""The writer's lease: of the runs that need the same product at once, one makes it and the others wait for it.

`locks/<type>-<digest>/<n>.json` says who holds generation n and is rewritten with a higher `beat` every few seconds;
the highest generation holds the lock. Taking over is creating generation n+1, which the file system grants to one
taker only. A waiter takes over when the holder's beat has not changed for `LEASE_SECONDS` of the waiter's own
monotonic clock (clocks of two machines are never compared), or at once when the holder is provably gone: a dead process
of this machine, or an earlier attempt of the same stage.

The lock saves work; it is not what keeps products whole. That is the rename, which the first writer wins.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from rlhf_api.stage_file import StageFile
from rlhf_api.store import write_atomically

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""A holder silent for this long has lost the lock."""
BEAT_SECONDS = 10.0
"""Between two signs of life."""
POLL_SECONDS = 1.0
"""Between two looks of a waiter."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    uid: str
    stage: str
    job: str
    attempt: int
    host: str
    boot: str
    pid: int
    started: str
    beat: int = 0
    released: bool = False

    @classmethod
    def me(cls, file: StageFile) -> Holder:
        """This process, for a stage."""
        pid = os.getpid()
        return cls(
            file.uid, file.stage, file.job, file.attempt, socket.gethostname(), boot_id(), pid, started_at(pid) or ""
        )

    def gone(self, holder: Holder) -> bool:
        """Whether `other` provably holds nothing any more: released, dead on this machine, or an earlier attempt."""
        if holder.released:
            return True
        if (holder.host, holder.boot) == (self.host, self.boot):
            return started_at(holder.pid) != holder.started
        return (holder.uid, holder.stage) == (self.uid, self.stage) and holder.attempt <= self.attempt


class Lease:
    """Holds the lock of one product while in a `with` block."""

    def __init__(self, folder: Path, generation: int, holder: Holder) -> None:
        self._folder = folder
        self._generation = generation
        self._holder = holder
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._write(replace(self._holder, released=True))

    def _keep_alive(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            highest = newest(self._folder)
            if highest is not None and highest[0] > self._generation:
                log.warning(
                    "the lock %s was taken over by job %s: this process was silent for %.0f s. Both go on; the first "
                    "product in place is used",
                    self._folder.name,
                    highest[1].job if highest[1] is not None else "?",
                    LEASE_SECONDS,
                )
                return
            self._holder = replace(self._holder, beat=self._holder.beat + 1)
            self._write(self._holder)

    def _write(self, holder: Holder) -> None:
        try:
            write_atomically(self._folder / f"{self._generation:06d}.json", orjson.dumps(asdict(holder)))
        except OSError as error:
            log.warning("the lock %s could not be renewed: %s", self._folder.name, error)


def acquire(
    folder: Path,
    me: Holder,
    *,
    done: Callable[[], bool],
    waiting: Callable[[Holder], None],
    pause: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> Lease | None:
    """Take the lock, or wait for it.

    Args:
        folder: `locks/<type>-<digest>`.
        done: whether the product is there now, so that nothing is left to make.
        waiting: told once a holder, when waiting begins.
        pause: wait so many seconds; true ends the waiting (asked to stop).

    Returns:
        The lease, not yet entered; None: `done`, or asked to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    observed: tuple[int, Holder | None] | None = None
    since = clock()
    announced: int | None = None
    while True:
        if done():
            return None
        current = newest(folder)
        if current != observed:
            observed, since = current, clock()
        if current is None or _free(me, current[1]) or clock() - since >= LEASE_SECONDS:
            generation = 1 if current is None else current[0] + 1
            if _take(folder, generation, me):
                return Lease(folder, generation, me)
            continue
        if current[1] is not None and announced != current[0]:
            waiting(current[1])
            announced = current[0]
        if pause(POLL_SECONDS):
            return None


def newest(folder: Path) -> tuple[int, Holder | None] | None:
    """The highest generation and its holder (None: being written); None: nobody ever held it."""
    names = sorted(path.stem for path in folder.glob("[0-9]*.json"))
    if not names:
        return None
    try:
        return int(names[-1]), Holder(**orjson.loads((folder / f"{names[-1]}.json").read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError, TypeError):
        return int(names[-1]), None


def _free(me: Holder, holder: Holder | None) -> bool:
    return holder is not None and me.gone(holder)


def _take(folder: Path, generation: int, me: Holder) -> bool:
    """Create the generation's file, whole, if nobody else did."""
    beside = folder / f".{me.host}.{me.pid}.{generation}"
    write_atomically(beside, orjson.dumps(asdict(me)))
    try:
        os.link(beside, folder / f"{generation:06d}.json")
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    for path in folder.glob("[0-9]*.json"):
        if int(path.stem) < generation:
            path.unlink(missing_ok=True)
    return True


def boot_id() -> str:
    """Tells one boot of a machine (and one machine named alike) from another; empty where the system has none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def started_at(pid: int) -> str | None:
    """When a process started, in the kernel's ticks, so that a reused pid is another process; None: it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return str(pid)
    return str(pid)
