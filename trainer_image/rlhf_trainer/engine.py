"""DeepSpeed behind four methods: backward, step, save, load.

Every trained model goes through it, whatever its ZeRO stage. The caller owns the accumulation boundaries: any number of
`backward` calls, then one `step`. Losses arrive as this rank's share of (sum over all ranks / global count); DeepSpeed
averages gradients over ranks, so they are multiplied by the number of ranks here and nowhere else.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_api.job import Execution
from rlhf_api.stages.common import Optimizer
from rlhf_trainer import deepspeed_ops

if TYPE_CHECKING:
    from rlhf_trainer.context import StageContext

TAG = "state"
"""Name of the folder that DeepSpeed keeps a checkpoint in."""


def learning_rate(optimizer: Optimizer, step: int, total_steps: int) -> float:
    """The learning rate of a step, a pure function of its number.

    Args:
        optimizer: Peak, warm-up and schedule.
        step: 0 for the first optimizer step.
        total_steps: Optimizer steps of the whole run.

    Returns:
        Linear warm-up to the peak over `warmup_ratio` of the steps (the first step already moves), then constant,
        or falling to 0 just after the last step, linearly or as half a cosine.
    """
    warmup = math.ceil(optimizer.warmup_ratio * total_steps)
    if step < warmup:
        return optimizer.learning_rate * (step + 1) / warmup
    if optimizer.schedule == "constant":
        return optimizer.learning_rate
    progress = (step - warmup) / max(1, total_steps - warmup)
    remaining = 1.0 - progress if optimizer.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return optimizer.learning_rate * max(0.0, remaining)


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay, biases and norms (one dimension or none) never do. Empty groups are left out."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    decayed = [parameter for parameter in trained if _dimensions(parameter) > 1]
    plain = [parameter for parameter in trained if _dimensions(parameter) <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _dimensions(parameter: nn.Parameter) -> int:
    return len(getattr(parameter, "ds_shape", parameter.shape))


def deepspeed_config(execution: Execution, optimizer: Optimizer) -> dict[str, Any]:
    """DeepSpeed's configuration of a stage.

    bfloat16 without ZeRO runs as ZeRO 1: DeepSpeed keeps its float32 copies only there, and sharding them is free.
    """
    bfloat16 = optimizer.dtype == "bfloat16"
    offload = execution.offload_optimizer
    zero = max(execution.zero, 1) if bfloat16 or offload else execution.zero
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.max_grad_norm if zero else 0.0,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": zero},
    }
    sharding = config["zero_optimization"]
    if zero:
        # The buckets bound the flat buffers that DeepSpeed sets aside; its defaults are 2 GB.
        sharding |= {"overlap_comm": False, "reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
    if zero == 3:
        sharding |= {"stage3_gather_16bit_weights_on_model_save": False, "stage3_prefetch_bucket_size": 0}
    if offload:
        sharding["offload_optimizer"] = {"device": "cpu"}
    return config


class Engine:
    """A model with its optimizer and learning rate schedule, sharded as the stage's execution says.

    Attributes:
        module: The module as given. For training call the engine itself, `engine(...)`, which runs `module(...)` under
            DeepSpeed's hooks; call `module` inside `gathered_parameters()`.
        steps: Optimizer steps taken.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        optimizer: Optimizer,
        total_steps: int,
        context: StageContext,
        name: str,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> None:
        """Wrap a module.

        Args:
            module: On any device; moved to the context's.
            optimizer: How to optimise; its `dtype` is the module's.
            total_steps: Optimizer steps of the whole run, for the schedule.
            context: The stage's context: rank, world, device and execution.
            name: Of the engine, in messages and checkpoints.
            parameters: Those to train; by default all that require gradients. The others are frozen.
        """
        self.name = name
        self.module = module
        self.steps = 0
        self._optimizer = optimizer
        self._total = total_steps
        self._rank, self._world = context.rank, context.world
        self._norm = math.nan
        if parameters is not None:
            chosen = set(map(id, parameters))
            for parameter in module.parameters():
                parameter.requires_grad_(id(parameter) in chosen)
        config = deepspeed_config(context.file.execution, optimizer)
        self._zero: int = config["zero_optimization"]["stage"]
        module.to(context.device)
        adam = torch.optim.AdamW(
            parameter_groups(module.parameters(), optimizer.weight_decay), lr=optimizer.learning_rate, fused=True
        )
        if not self._zero:
            adam.register_step_pre_hook(lambda *_: self._clip())
        self._engine = _initialize(module, adam, config, context)
        if self._world == 1 and not self._zero:
            self._engine.enable_backward_allreduce = False  # one rank has nothing to average

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`module(...)` under DeepSpeed's hooks."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients.

        Args:
            loss: Scalar: this rank's share of (sum over all ranks / global count). Every rank must call as often as
                the others between two steps: a rank with nothing left passes a loss times zero.
        """
        self._engine.backward(loss * self._world)

    def step(self) -> float:
        """Take one optimizer step at the schedule's learning rate, gradients clipped to `maxGradNorm`.

        Returns:
            The global norm of the gradient before clipping; NaN where a gradient is not finite (no step was taken
            then under ZeRO; without it the weights hold NaN: end the stage).
        """
        rate = self.rate
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        self.steps += 1
        if self._zero:
            norm = float(self._engine.get_global_grad_norm())
            self._norm = norm if math.isfinite(norm) and norm >= 0.0 else math.nan
        return self._norm

    @property
    def rate(self) -> float:
        """Learning rate of the step to come."""
        return learning_rate(self._optimizer, self.steps, self._total)

    def _clip(self) -> None:
        """Runs between DeepSpeed's all-reduce and the update (without ZeRO, where DeepSpeed gives no norm)."""
        parameters = [parameter for group in self._engine.optimizer.param_groups for parameter in group["params"]]
        self._norm = float(nn.utils.clip_grad_norm_(parameters, self._optimizer.max_grad_norm))

    @contextmanager
    def gathered_parameters(self) -> Iterator[nn.Module]:
        """The module with all its weights on this rank: for rollouts and evaluation, without gradients.

        Under ZeRO 3 the weights are gathered and DeepSpeed's hooks taken off meanwhile: every rank must enter and
        leave together, but needs not run as many forwards as the others inside.
        """
        if self._zero < 3:
            yield self.module
            return
        import deepspeed

        offload = self._engine.optimizer.parameter_offload
        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            offload._remove_module_hooks()
            offload.forward_hooks, offload.backward_hooks = [], []
            try:
                yield self.module
            finally:
                offload.setup_zero_stage3_hooks()

    def state_dict(self) -> dict[str, Tensor]:
        """The module's whole weights on rank 0 (on the CPU under ZeRO 3), {} on other ranks. Every rank must call."""
        if self._zero < 3:
            return dict(self.module.state_dict()) if self._rank == 0 else {}
        import deepspeed

        state: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter]):
                if self._rank == 0:
                    state[name] = parameter.detach().cpu().clone()
        if self._rank == 0:
            state |= {name: buffer for name, buffer in self.module.state_dict().items() if name not in state}
        return state

    def save(self, folder: Path) -> None:
        """Write all that `load` needs to go on exactly; frozen weights are left out. Every rank must call."""
        self._engine.save_checkpoint(
            str(folder), tag=TAG, client_state={"steps": self.steps}, save_latest=False, exclude_frozen_parameters=True
        )

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote with as many ranks and the same ZeRO stage. Every rank must call.

        The files are pickles of this project's own: the caller has verified their digests.

        Raises:
            FileNotFoundError: there is no such state.
        """
        if not (folder / TAG).is_dir():
            raise FileNotFoundError(f"{folder}: no state of engine {self.name!r}; remove this checkpoint")
        _, client = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        self.steps = int(client["steps"])


def _initialize(module: nn.Module, adam: torch.optim.Optimizer, config: dict[str, Any], context: StageContext) -> Any:
    deepspeed = _deepspeed(context.device)
    os.environ.setdefault("LOCAL_RANK", str(context.local_rank))  # DeepSpeed insists on the variable
    if not torch.distributed.is_initialized():
        # A single process: a store inside it needs no port.
        backend = "nccl" if context.device.type == "cuda" else "gloo"
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # exported, but not listed in __all__
        torch.distributed.init_process_group(backend, store=store, rank=context.rank, world_size=context.world)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    engine, *_ = deepspeed.initialize(model=module, optimizer=adam, config=config)
    return engine


def _deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read at import; else a GPU nobody asked for would be chosen
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if device.type == "cpu":
        deepspeed_ops.load()
    return deepspeed
