"""PTX: the gradient of cross-entropy on conversations, added to PPO's before the one optimizer step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf_trainer import distributed
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.batches import Schedule, micro_batches
from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.engine import Engine
from rlhf_trainer.losses.sft import targets
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs

ENDLESS = 1e6


class Ptx:
    """Conversations to mix in.

    Args:
        context: of the stage.
        rows: encoded conversations; each must have a learned token.
        batch_size: conversations a step, over all ranks.
        coefficient: weight of the cross-entropy.
        boundary: gives batches to the policy's decoder.
        budget: most tokens of a forward.
    """

    def __init__(
        self,
        context: StageContext,
        rows: Sequence[Encoded],
        batch_size: int,
        coefficient: float,
        boundary: FrozenTrunkInputs,
        budget: int,
    ) -> None:
        self._context = context
        self._rows = list(rows)
        self._lengths = [len(row) for row in self._rows]
        self._schedule = Schedule(len(self._rows), batch_size, ENDLESS, seed=context.seed + 2)
        self._coefficient = coefficient
        self._boundary = boundary
        self._budget = budget

    def learn(self, engine: Engine, step: int) -> float:
        """Accumulate coefficient x cross-entropy; gives the cross-entropy a token, over all ranks. A collective."""
        chosen = self._schedule.step(step)
        learned = sum(sum(self._rows[row].mask[1:]) for row in chosen)
        dealt = micro_batches(self._lengths, chosen, self._budget, self._context.world)[self._context.rank]
        device = self._context.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for batch in dealt:
            rows = [self._rows[row] for row in batch.rows]
            inputs, padded = self._boundary.batch(rows, list(batch.rows))
            inside, labels = targets(padded.input_ids, padded.mask)
            log_probs, _ = engine(inputs, inside.nonzero().to(device), labels.to(device))
            loss = -log_probs.sum() * (0.0 if batch.dummy else 1.0 / max(1, learned))
            engine.backward(self._coefficient * loss)
            total += loss.detach().double()
        if distributed.size() > 1:
            torch.distributed.all_reduce(total)
        return float(total)
