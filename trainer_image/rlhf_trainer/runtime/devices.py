"""A rank's device and its process group: what a trained stage needs of torch before its `run(context)`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from rlhf_trainer.context import versions
from rlhf_trainer.exits import InputError
from rlhf_trainer.runtime.rank_env import RankEnv

COLLECTIVE_TIMEOUT = timedelta(days=1)
"""Ranks wait for each other this long (rank 0 may write a large product meanwhile). A rank that dies is noticed by the
launcher at once, and a gang that hangs by whoever watches its steps."""

EXACT = ("python", "torch", "transformers", "deepspeed", "peft", "numpy")
"""Libraries whose version a bit-exact resume depends on."""


def take_device(local_rank: int) -> torch.device:
    """The rank's own GPU, made this process's; the CPU where there is none.

    Raises:
        InputError: the pod, or this machine, has fewer GPUs than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = own_gpu(local_rank)
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


def begin_group(device: torch.device, rank_env: RankEnv) -> None:
    """Begin the process group."""
    if rank_env.world == 1:
        # Alone there is nobody to meet: a store inside the process needs no port.
        store = dist.HashStore()  # type: ignore[attr-defined]  # torch does not mark it as exported
        dist.init_process_group(backend(device), store=store, rank=0, world_size=1)
    else:
        dist.init_process_group(backend(device), timeout=COLLECTIVE_TIMEOUT)


def end_group() -> None:
    """End the process group that `begin_group` began, if it did."""
    if dist.is_initialized():
        dist.destroy_process_group()


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
    exact = {name: version for name, version in versions().items() if name in EXACT}
    return {**exact, "threads": str(torch.get_num_threads()), "processor": chip}
