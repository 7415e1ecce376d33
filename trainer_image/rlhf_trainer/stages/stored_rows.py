"""What stages that learn from stored rows share: sums over ranks, the frozen layers' states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_trainer import distributed
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.shared_prefix import SharedPrefixPair
from rlhf_trainer.exits import Stopped
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs


def total(share: Tensor) -> Tensor:
    """A scalar summed over all ranks."""
    if distributed.size() > 1:
        torch.distributed.all_reduce(share)
    return share


def remember(
    context: StageContext,
    boundary: FrozenTrunkInputs,
    rows: Sequence[Encoded] | Sequence[SharedPrefixPair],
    key: str,
    dtype: torch.dtype,
) -> None:
    """Keep the frozen layers' states of rows that come back. A collective.

    Raises:
        Stopped: asked to stop; what was computed so far is kept.
    """

    def tick(done: int, rounds: int) -> None:
        if done == 1:
            context.progress.start(rounds, "batches", phase="frozen layers")
        context.progress.advance(done)
        if context.stop_requested() and done < rounds:
            raise Stopped("stopped on request before the first step; the frozen layers' states so far are kept")

    boundary.cache_hidden_states(rows, context.work / "states.bin", key, dtype=dtype, tick=tick)
