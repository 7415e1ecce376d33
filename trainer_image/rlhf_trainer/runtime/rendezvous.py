"""Several ranks of a pod as processes, over torch's elastic multiprocessing API, and where they find each other."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not mark it as exported
from torch.distributed.elastic.multiprocessing import (
    LogsDest,
    LogsSpecs,
    SignalException,
    SubprocessContext,
    start_processes,
)

from rlhf_api.stage_file import StageFile
from rlhf_trainer.exits import InputError, Stopped
from rlhf_trainer.stopping import StopRequest

log = logging.getLogger(__name__)

TORCH_HANDLES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals for which torch's start_processes sets handlers of its own."""


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


@contextmanager
def started(
    file: StageFile, path: Path, node: int, environments: dict[int, dict[str, str]], stop: StopRequest
) -> Iterator[dict[int, Popen[Any]]]:
    """The pod's ranks as processes, by local rank; on leaving, whatever still runs is killed.

    Raises:
        InputError: stage.json does not say where node 0 is.
        Stopped: asked to stop while waiting for node 0.
    """
    host, port, store = rendezvous(file, node, stop)
    address = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with own_signals():
        context = start_processes(
            name="rank",
            entrypoint=sys.executable,
            args={local: ("-m", "rlhf_trainer.runtime.worker", str(path)) for local in environments},
            envs={local: {**environment, **address} for local, environment in environments.items()},
            logs_specs=OwnLogs(),
        )
    if not isinstance(context, SubprocessContext):
        raise TypeError(f"torch's start_processes gave {type(context).__name__}; expected a SubprocessContext")
    try:
        yield {local: handler.proc for local, handler in context.subprocess_handlers.items()}
    finally:
        context.close(signal.SIGKILL)
        del store  # served until the last rank has gone


@contextmanager
def own_signals() -> Iterator[None]:
    """Put back this process's signal handlers: torch sets its own when it starts processes, and on SIGTERM they raise
    out of whatever runs, so that the ranks would be killed before they have saved.
    """
    before = {number: signal.getsignal(number) for number in TORCH_HANDLES}
    try:
        yield
    except SignalException as error:  # meanwhile; the ranks that were started end with this process
        raise Stopped("stopped on request while the ranks were started") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rendezvous(file: StageFile, node: int, stop: StopRequest) -> tuple[str, int, TCPStore | None]:
    """Host and port where ranks meet; the launcher of node 0 serves it, so that no rank has to guess a free port."""
    if file.nodes == 1:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return "127.0.0.1", store.port, store
    host, _, port = (file.master or "").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"stage.json: master: found {file.master!r}; expected host:port of node 0, because nodes is {file.nodes}",
            reason="InvalidStageFile",
        )
    if node == 0:
        return host, int(port), TCPStore(host, int(port), is_master=True, wait_for_workers=False)
    await_node_0(host, int(port), stop)
    return host, int(port), None


def await_node_0(host: str, port: int, stop: StopRequest) -> None:
    """Wait until node 0 serves the rendezvous: it may first wait for another run's product.

    Raises:
        Stopped: asked to stop meanwhile.
    """
    logged = False
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if not logged:
                log.info("waiting for node 0 at %s:%d (%s)", host, port, error)
                logged = True
        if stop.wait(1.0):
            raise Stopped("stopped on request while waiting for node 0")
