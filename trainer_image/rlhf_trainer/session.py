"""Builds a rank's `StageContext`: device, torch.distributed, metrics and their servers, checkpoints; and takes it down."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist

from rlhf_api.stage_file import StageFile
from rlhf_trainer import rng
from rlhf_trainer.checkpoint import Checkpoints
from rlhf_trainer.context import StageContext, versions
from rlhf_trainer.events import Events
from rlhf_trainer.exits import InputError
from rlhf_trainer.metrics import Metrics, Sink
from rlhf_trainer.place import Place
from rlhf_trainer.progress import Progress
from rlhf_trainer.server import Prometheus, Server
from rlhf_trainer.stopping import StopRequest

COLLECTIVE_TIMEOUT = timedelta(days=1)
"""Ranks wait for each other this long (rank 0 may write a large product meanwhile). A rank that dies is noticed by the
launcher at once, and a gang that hangs by whoever watches its steps."""

EXACT = ("python", "torch", "transformers", "deepspeed", "peft", "numpy")
"""Libraries whose version a bit-exact resume depends on."""


class Session:
    """The context manager a stage's function runs in."""

    def __init__(self, file: StageFile, place: Place, work: Path, stop: StopRequest, *, light: bool) -> None:
        self._file = file
        self._place = place
        self._work = work
        self._stop = stop
        self._light = light
        self._server: Server | None = None

    def __enter__(self) -> StageContext:
        file, place = self._file, self._place
        device = self._device()
        progress = Progress({"stage": file.stage, "type": file.type, "attempt": file.attempt})
        sinks: tuple[Sink, ...] = ()
        if place.local_rank == 0:
            prometheus = Prometheus(stage=file.stage, type=file.type)
            self._server = Server(file.metrics_port, prometheus, progress)
            self._server.start(self._work / "endpoint.json" if place.rank == 0 else None)
            sinks = (prometheus,) if self._light or place.rank != 0 else (prometheus, Events(self._work / "events"))
        self._meet(device)
        rng.seed_all(rng.rank_seed(file.seed, place.rank))
        return StageContext(
            file=file,
            rank=place.rank,
            world=place.world,
            local_rank=place.local_rank,
            device=device,
            work=self._work,
            metrics=Metrics(
                self._work,
                rank=place.rank,
                attempt=file.attempt,
                sinks=sinks,
                say=progress.say,
                device_peak=device_peak(device),
            ),
            progress=progress,
            checkpoints=Checkpoints(
                self._work / "checkpoints",
                digest=file.digest,
                rank=place.rank,
                world=place.world,
                keep=file.execution.keep_checkpoints,
                made_with=made_with(device),
            ),
            stop=self._stop,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop()
        if error is None and not self._light and dist.is_initialized():  # only what was made here
            dist.destroy_process_group()

    def _meet(self, device: torch.device) -> None:
        """Begin the process group; after the server's start, so that a gang which never meets is seen to stand still."""
        if self._light:
            return
        if self._place.world == 1:
            # Alone there is nobody to meet: a store inside the process needs no port.
            store = dist.HashStore()  # type: ignore[attr-defined]  # torch does not mark it as exported
            dist.init_process_group(backend(device), store=store, rank=0, world_size=1)
        else:
            dist.init_process_group(backend(device), timeout=COLLECTIVE_TIMEOUT)

    def _device(self) -> torch.device:
        if self._light or not torch.cuda.is_available():
            return torch.device("cpu")
        device = own_gpu(self._place.local_rank)
        torch.cuda.set_device(device)
        # A gradient's sum has one order: else a run that is resumed would not end with the same bits. An operation that
        # knows one order only by chance warns.
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling new memory only helps to find mistakes, and costs a write of everything. (The module is not typed.)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return device


def own_gpu(local_rank: int) -> torch.device:
    """The GPU of a rank.

    Raises:
        InputError: the pod, or this machine, has fewer GPUs than ranks.
    """
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise InputError(
            f"ranksPerNode: rank {local_rank} of this node finds {count} GPUs; expected one for each rank (lower "
            "ranksPerNode, ask for more, or set CUDA_VISIBLE_DEVICES to nothing for the CPU)",
            reason="TooFewDevices",
        )
    return torch.device("cuda", local_rank)


def device_peak(device: torch.device) -> Callable[[], int] | None:
    """Reads the most bytes that torch has held of a GPU; None on the CPU."""
    return partial(torch.cuda.max_memory_allocated, device) if device.type == "cuda" else None


def backend(device: torch.device) -> str:
    """Gloo for tensors on the CPU, among them every control message; NCCL for those on GPUs."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def made_with(device: torch.device) -> dict[str, str]:
    """What the last bit of a result depends on beside the spec: versions, threads, and the processor's instructions."""
    capability = torch.backends.cpu.get_cpu_capability()
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else capability
    found = {name: version for name, version in versions().items() if name in EXACT}
    return {**found, "threads": str(torch.get_num_threads()), "processor": chip}
