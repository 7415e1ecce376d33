"""The ranks of one pod: what they are told, when they are stopped, and how each ended."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import orjson

from rlhf_api.contract import OFFLINE
from rlhf_api.gpus import has_gpu
from rlhf_api.stage_file import StageFile
from rlhf_api.stages import PREPARE, SINGLE_PROCESS_STAGES
from rlhf_trainer.exits import DONE, STOPPED, severity
from rlhf_trainer.runtime.rank_env import log_path, result_path
from rlhf_trainer.runtime.termination import RankEnd, StageResult, judge
from rlhf_trainer.stopping import StopRequest

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
FOLLOW_SECONDS = {DONE: 86400.0, STOPPED: 60.0}
"""How long the others may take after a rank ended so."""
FOLLOW_FAILURE_SECONDS = 5.0
"""After any other end they hang in a collective, or fail of it: enough to write down which."""
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=8589934592:glibc.malloc.mmap_threshold=33554432"
"""On a CPU activations come and go by the gigabyte. glibc would give each back to the kernel and fault it in again, a
page of 4 KiB at a time: as long as the arithmetic. So it keeps what it has, in huge pages where the kernel lends them."""
SPIN_COUNT = "20000"
"""How often OpenMP's threads look at a barrier before they sleep there. By default they spin for long: where
cores are shared, a thread that spins holds the core which the thread it waits for needs. On a quiet machine one that
sleeps at once comes back late (benchmarks/results/spinning.md)."""
SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Where the environment has one of these, it is the user's choice."""

CUBLAS_WORKSPACE = ":4096:8"
"""cuBLAS sums in one order only with workspaces of its own, which it must be told of before it starts."""


class Ranks:
    """Starts the pod's ranks, forwards the request to stop, and ends them all when one has failed."""

    def __init__(self, file: StageFile, path: Path, node: int) -> None:
        self._file = file
        self._path = path
        self._node = node
        self._work = Path(file.directories.work)
        self._local = 1 if file.type in SINGLE_PROCESS_STAGES else file.ranks_per_node
        self._world = 1 if file.type in SINGLE_PROCESS_STAGES else file.nodes * file.ranks_per_node
        self._first = node * self._local

    def run(self, stop: StopRequest, grace: float) -> StageResult:
        """Run the ranks to their end; gives what came of them."""
        for local in range(self._local):
            result_path(self._work, self._file.attempt, self._first + local).unlink(missing_ok=True)
        tail = Tail(log_path(self._work, self._file.attempt, self._first))
        with self._started(stop) as processes, tail:
            ends, grace_over = self._watch(processes, stop, grace)
        return judge(ends, stop_requested=stop.is_set(), grace_over=grace_over, grace=grace)

    def _started(self, stop: StopRequest) -> AbstractContextManager[dict[int, Popen[Any]]]:
        environments = {local: self._environment(local) for local in range(self._local)}
        if self._world == 1:
            return alone(self._path, environments[0])
        from rlhf_trainer.runtime import rendezvous

        return rendezvous.started(self._file, self._path, self._node, environments, stop)

    def _watch(self, processes: dict[int, Popen[Any]], stop: StopRequest, grace: float) -> tuple[list[RankEnd], bool]:
        """Wait for every rank; gives their ends in order, and whether they had to be killed after the grace period."""
        running = dict(processes)
        ends: list[RankEnd] = []
        stop_by = kill_at = float("inf")
        grace_over = killing = False
        while running:
            for local in [local for local, process in running.items() if process.poll() is not None]:
                ends.append(self._end(local, running.pop(local), killing))
                follow = FOLLOW_SECONDS.get(ends[-1].exit, FOLLOW_FAILURE_SECONDS)
                kill_at = min(kill_at, time.monotonic() + follow)
            if stop.is_set() and stop_by == float("inf"):
                log.info("asked to stop: the ranks finish their step and save; at most %g s", grace)
                stop_by = time.monotonic() + grace
                send(running, signal.SIGTERM)
            if running and not killing and time.monotonic() >= min(stop_by, kill_at):
                killing, grace_over = True, stop_by <= kill_at
                send(running, signal.SIGKILL)
            if running:
                pause(stop)
        return ends, grace_over

    def _end(self, local: int, process: Popen[Any], killing: bool) -> RankEnd:
        rank = self._first + local
        report = self._report(rank)
        ours = killing and process.returncode == -signal.SIGKILL
        if process.returncode != DONE and not ours:
            log.log(severity(process.returncode), "rank %d ended with %d", rank, process.returncode)
        return RankEnd(rank, process.returncode, report, ours)

    def _report(self, rank: int) -> dict[str, Any] | None:
        """The rank's result file; None: it has not written it."""
        path = result_path(self._work, self._file.attempt, rank)
        content = path.read_bytes().strip() if path.exists() else b""
        return orjson.loads(content) if content else None

    def _environment(self, local: int) -> dict[str, str]:
        file = self._file
        environment = {
            "RANK": str(self._first + local),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(self._world),
            "LOCAL_WORLD_SIZE": str(self._local),
            "GROUP_RANK": str(self._node),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        if not any(name in os.environ for name in SPIN_SETTINGS):
            environment["GOMP_SPINCOUNT"] = SPIN_COUNT
        if file.threads:
            environment |= {"OMP_NUM_THREADS": str(file.threads), "MKL_NUM_THREADS": str(file.threads)}
        if file.type != PREPARE:
            environment |= OFFLINE
        if has_gpu():
            environment["CUBLAS_WORKSPACE_CONFIG"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        else:
            environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
            environment["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", MALLOC)
        return environment


@contextmanager
def alone(path: Path, environment: dict[str, str]) -> Iterator[dict[int, Popen[Any]]]:
    """A single rank as a process; on leaving, it is killed if it still runs."""
    process = Popen(
        [sys.executable, "-m", "rlhf_trainer.runtime.worker", str(path)],
        env={**os.environ, **environment},
        start_new_session=True,  # a Ctrl-C reaches the launcher alone, which forwards it once
    )
    try:
        yield {0: process}
    finally:
        process.kill()
        process.wait()


class Tail:
    """Copies what is appended to a file to standard output, so that the pod's log is rank 0's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tail", daemon=True)

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            self._copy()
        self._copy()

    def _copy(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        self._offset += len(content)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def send(processes: dict[int, Popen[Any]], number: signal.Signals) -> None:
    """Send a signal to every process that still runs."""
    for process in processes.values():
        process.send_signal(number)


def pause(stop: StopRequest) -> None:
    """Wait a moment, less when asked to stop meanwhile."""
    if stop.is_set():
        time.sleep(POLL_SECONDS)
    else:
        stop.wait(POLL_SECONDS)
