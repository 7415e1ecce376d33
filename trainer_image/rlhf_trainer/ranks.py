"""The ranks of one pod as processes, over torch's elastic multiprocessing API."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import orjson
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not mark it as exported
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SubprocessContext, start_processes

from rlhf_api.stage_file import StageFile
from rlhf_trainer.exits import DONE, STOPPED, InputError, Stopped
from rlhf_trainer.outcome import Outcome, RankEnd, judge
from rlhf_trainer.rank import log_path, result_path
from rlhf_trainer.stages import LIGHT

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
FOLLOW_SECONDS = {DONE: 86400.0, STOPPED: 60.0}
"""How long the others may take after a rank ended so. After any other end they hang in a collective, or fail of it."""
FOLLOW_FAILURE_SECONDS = 5.0


class OwnLogs(LogsSpecs):
    """Every rank opens its own log (appending, so that a resumed attempt keeps its lines); nothing is redirected here."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """No files: the ranks inherit the launcher's streams until they open their logs."""
        none = dict.fromkeys(envs, "")
        return LogsDest(stdouts=none, stderrs=none, error_files=dict.fromkeys(envs, os.devnull))

    @property
    def root_log_dir(self) -> str:
        """There is none."""
        return os.devnull


class Ranks:
    """Starts the pod's ranks, forwards the request to stop, and ends them all when one has failed."""

    def __init__(self, file: StageFile, path: Path, node: int) -> None:
        self._file = file
        self._path = path
        self._node = node
        self._work = Path(file.directories.work)
        self._local = 1 if file.type in LIGHT else file.ranks_per_node
        self._world = 1 if file.type in LIGHT else file.nodes * file.ranks_per_node
        self._first = node * self._local

    def run(self, asked: threading.Event, grace: float) -> Outcome:
        """Run the ranks to their end; gives what came of them."""
        address, store = self._rendezvous(asked)
        for local in range(self._local):
            result_path(self._work, self._file.attempt, self._first + local).unlink(missing_ok=True)
        tail = Tail(log_path(self._work, self._file.attempt, self._first))
        context = start_processes(
            name="rank",
            entrypoint=sys.executable,
            args={local: ("-m", "rlhf_trainer.rank", str(self._path)) for local in range(self._local)},
            envs={local: self._environment(local, address) for local in range(self._local)},
            logs_specs=OwnLogs(),
        )
        if not isinstance(context, SubprocessContext):
            raise TypeError(f"torch's start_processes gave {type(context).__name__}; expected a SubprocessContext")
        processes = {local: handler.proc for local, handler in context.subprocess_handlers.items()}
        try:
            with tail:
                ends, grace_over = self._watch(processes, asked, grace)
        finally:
            context.close(signal.SIGKILL)
            del store
        return judge(ends, asked=asked.is_set(), grace_over=grace_over, grace=grace)

    def _watch(
        self, processes: dict[int, Popen[Any]], asked: threading.Event, grace: float
    ) -> tuple[list[RankEnd], bool]:
        """Wait for every rank; gives their ends in order, and whether they had to be killed after the grace period."""
        running = dict(processes)
        ends: list[RankEnd] = []
        kill_at: float | None = None
        stop_by: float | None = None
        grace_over = killing = False
        while running:
            for local in [local for local, process in running.items() if process.poll() is not None]:
                end = self._end(local, running.pop(local), killing)
                ends.append(end)
                follow = time.monotonic() + FOLLOW_SECONDS.get(end.exit, FOLLOW_FAILURE_SECONDS)
                kill_at = follow if kill_at is None else min(kill_at, follow)
            now = time.monotonic()
            if asked.is_set() and stop_by is None:
                log.info("asked to stop: the ranks finish their step and save; at most %g s", grace)
                stop_by = now + grace
                send(running, signal.SIGTERM)
            grace_over = grace_over or (bool(running) and stop_by is not None and now >= stop_by and not killing)
            if running and not killing and (grace_over or (kill_at is not None and now >= kill_at)):
                killing = True
                send(running, signal.SIGKILL)
            if running:
                _pause(asked if stop_by is None else None)
        return ends, grace_over

    def _end(self, local: int, process: Popen[Any], killing: bool) -> RankEnd:
        rank = self._first + local
        path = result_path(self._work, self._file.attempt, rank)
        said = orjson.loads(path.read_bytes()) if path.exists() else None
        ours = killing and process.returncode == -signal.SIGKILL
        if process.returncode != DONE and not ours:
            log.error("rank %d ended with %s", rank, process.returncode)
        return RankEnd(rank, process.returncode, said, ours)

    def _environment(self, local: int, address: tuple[str, int]) -> dict[str, str]:
        file = self._file
        environment = {
            "RANK": str(self._first + local),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(self._world),
            "LOCAL_WORLD_SIZE": str(self._local),
            "GROUP_RANK": str(self._node),
            "MASTER_ADDR": address[0],
            "MASTER_PORT": str(address[1]),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        if file.threads:
            environment["OMP_NUM_THREADS"] = str(file.threads)
            environment["MKL_NUM_THREADS"] = str(file.threads)
        if file.type != "prepare":
            environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        if not has_gpu():
            environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return environment

    def _rendezvous(self, asked: threading.Event) -> tuple[tuple[str, int], TCPStore | None]:
        """The store through which ranks find each other; served by the launcher of node 0, so that no port is guessed."""
        file = self._file
        if file.type in LIGHT:
            return ("127.0.0.1", 0), None
        if file.nodes == 1:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            return ("127.0.0.1", store.port), store
        host, port = self._master()
        if self._node == 0:
            return (host, port), TCPStore(host, port, is_master=True, wait_for_workers=False)
        self._await_master(host, port, asked)
        return (host, port), None

    def _master(self) -> tuple[str, int]:
        host, _, port = (self._file.master or "").rpartition(":")
        if not host or not port.isdigit():
            raise InputError(
                f"stage.json: master: found {self._file.master!r}; expected host:port of node 0 because nodes is "
                f"{self._file.nodes}",
                reason="InvalidStageFile",
            )
        return host, int(port)

    def _await_master(self, host: str, port: int, asked: threading.Event) -> None:
        """Wait until node 0 serves the rendezvous: it may first wait for another run's product."""
        said = False
        while True:
            try:
                socket.create_connection((host, port), timeout=5).close()
                return
            except OSError as error:
                if not said:
                    log.info("waiting for node 0 at %s:%d (%s)", host, port, error)
                    said = True
            if asked.wait(1.0):
                raise Stopped("stopped on request while waiting for node 0")


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
        while not self._done.wait(0.2):
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


def has_gpu() -> bool:
    """Whether this pod has a GPU; asked without CUDA, which a launcher must not initialise."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _pause(asked: threading.Event | None) -> None:
    if asked is None:
        time.sleep(POLL_SECONDS)
    else:
        asked.wait(POLL_SECONDS)
