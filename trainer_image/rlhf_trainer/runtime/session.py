"""Builds a rank's context: device, torch.distributed, metrics and their servers, checkpoints; and takes it down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rlhf_api.stage_file import StageFile
from rlhf_trainer import lean_imports, rng
from rlhf_trainer.context import LightContext, StageContext
from rlhf_trainer.runtime.rank_env import RankEnv
from rlhf_trainer.stopping import StopRequest
from rlhf_trainer.storage.checkpoints import Checkpoints, sharding_of
from rlhf_trainer.telemetry.metrics import Metrics, Sink
from rlhf_trainer.telemetry.progress import Progress
from rlhf_trainer.telemetry.server import Prometheus, Server


class WorkerRuntime:
    """The context manager a stage's function runs in. A light stage gets a LightContext, and torch is not imported."""

    def __init__(self, file: StageFile, rank_env: RankEnv, work: Path, stop: StopRequest, *, light: bool) -> None:
        self._file = file
        self._rank_env = rank_env
        self._work = work
        self._stop = stop
        self._light = light
        self._server: Server | None = None

    def __enter__(self) -> LightContext:
        file, rank_env = self._file, self._rank_env
        if self._light:
            progress, sinks = self._serve()
            rng.seed_all(file.seed)
            return LightContext(**self._fields(progress, sinks))
        from rlhf_trainer.runtime import devices

        device = devices.take_device(rank_env.local_rank)
        progress, sinks = self._serve()
        # After the server's start: a gang which never meets is seen to stand still.
        devices.begin_group(device, rank_env)
        rng.seed_all(rng.rank_seed(file.seed, rank_env.rank))
        return StageContext(
            **self._fields(progress, sinks, devices.device_peak(device)),
            local_rank=rank_env.local_rank,
            device=device,
            checkpoints=Checkpoints(
                self._work / "checkpoints",
                digest=file.digest,
                rank=rank_env.rank,
                world=rank_env.world,
                keep=file.execution.keep_checkpoints,
                sharding=sharding_of(file.execution),
                made_with=devices.made_with(device),
            ),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop()
        if error is None and not self._light:
            from rlhf_trainer.runtime import devices

            devices.end_group()

    def _serve(self) -> tuple[Progress, tuple[Sink, ...]]:
        """Start the node's server, on its first rank; gives what metrics go to."""
        file, rank_env = self._file, self._rank_env
        progress = Progress({"stage": file.stage, "type": file.type, "attempt": file.attempt})
        if rank_env.local_rank != 0:
            return progress, ()
        prometheus = Prometheus(stage=file.stage, type=file.type)
        self._server = Server(file.metrics_port, prometheus, progress)
        self._server.start(self._work / "endpoint.json" if rank_env.rank == 0 else None)
        if self._light or rank_env.rank != 0:
            return progress, (prometheus,)
        with lean_imports.absent(*lean_imports.CLOUDS):
            from rlhf_trainer.telemetry.events import Events  # TensorBoard

        return progress, (prometheus, Events(self._work / "events"))

    def _fields(
        self, progress: Progress, sinks: tuple[Sink, ...], device_peak: Callable[[], int] | None = None
    ) -> dict[str, Any]:
        """What a LightContext is made of."""
        file, rank_env = self._file, self._rank_env
        metrics = Metrics(
            self._work, rank=rank_env.rank, attempt=file.attempt, sinks=sinks, say=progress.say, device_peak=device_peak
        )
        return {
            "file": file,
            "rank": rank_env.rank,
            "world": rank_env.world,
            "work": self._work,
            "metrics": metrics,
            "progress": progress,
            "stop": self._stop,
        }
