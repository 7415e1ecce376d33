"""From scored answers to gradients: one micro-batch at a time, sums that add up over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer import distributed
from rlhf_trainer.engine import Engine
from rlhf_trainer.losses.ppo import (
    clip_fraction,
    explained_variance,
    explained_variance_sums,
    policy_loss,
    token_weights,
    value_loss,
)
from rlhf_trainer.ppo.critics import Critic
from rlhf_trainer.ppo.scorer import Scored
from rlhf_trainer.ppo.targets import Targets, TargetSource


@dataclass
class Sums:
    """What an optimizer step's micro-batches add up to, on this rank until `gathered`."""

    streams: int
    policy_loss: float = 0.0
    value_losses: list[float] = field(default_factory=list)
    tokens: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    advantage: float = 0.0
    variances: list[Tensor] = field(default_factory=list)
    _waiting: list[Tensor] = field(default_factory=list)

    def add(self, numbers: Tensor) -> None:
        """Take a micro-batch's numbers in; they are read at the end."""
        self._waiting.append(numbers)

    def gathered(self) -> Sums:
        """Over all micro-batches and ranks: one reduction."""
        size = 6 + self.streams * 6
        device = self._waiting[0].device if self._waiting else torch.device("cpu")
        total = torch.stack(self._waiting).sum(0) if self._waiting else torch.zeros(size, dtype=torch.float64)
        total = total.to(device)
        if distributed.size() > 1:
            torch.distributed.all_reduce(total)
        numbers = total.cpu()
        variances = [numbers[6 + self.streams + 5 * i :][:5] for i in range(self.streams)]
        policy, tokens, kl, entropy, clipped, advantage = numbers[:6].tolist()
        return Sums(
            self.streams,
            policy_loss=policy,
            value_losses=numbers[6 : 6 + self.streams].tolist(),
            tokens=tokens,
            kl=kl,
            entropy=entropy,
            clipped=clipped,
            advantage=advantage,
            variances=variances,
        )

    def explained(self) -> list[float]:
        """Explained variance of each stream's head."""
        return [explained_variance(sums) for sums in self.variances]


@dataclass(frozen=True)
class LossScale:
    """What token losses are divided by: an optimizer step's tokens and answers, over all micro-batches and ranks."""

    tokens: int
    """Response tokens."""
    answers: int

    def weights(self, batch: Scored, spec: Ppo) -> Tensor:
        """[B, T] of `token_weights`; 0 for a dummy."""
        weights = token_weights(
            batch.layout.mask,
            spec.loss_normalization,
            tokens=self.tokens,
            answers=self.answers,
            longest=spec.rollout.max_new_tokens,
        )
        return weights * 0.0 if batch.dummy else weights


class Updater:
    """Forward and backward of policy and critics."""

    def __init__(self, spec: Ppo, policy: Engine, critics: Sequence[tuple[Critic, Engine]], streams: list[str]) -> None:
        self._spec = spec
        self._policy = policy
        self._critics = list(critics)
        self._streams = streams

    def learn(self, batch: Scored, source: TargetSource, scale: LossScale, sums: Sums) -> None:
        """Gradients of one micro-batch.

        Args:
            batch: its answers, with the inputs of the decoders.
            source: gives its targets.
            scale: of the optimizer step.
            sums: takes its numbers in.
        """
        spec, layout = self._spec, batch.layout
        flat, entropy = self._policy(batch.inputs, layout.predictors, layout.targets, spec.rollout.temperature)
        log_probs = layout.scatter(flat)
        values: dict[str, Tensor] = {}
        heads = []
        for (critic, engine), critic_input in zip(self._critics, batch.critic_inputs, strict=True):
            flat_values = engine(critic_input, layout.predictors)
            heads.append(flat_values)
            for index, stream in enumerate(critic.streams):
                values[stream] = layout.scatter(flat_values[:, index])
        ordered = [values[stream] for stream in self._streams]
        targets = source.targets(batch, log_probs, ordered)
        weights = scale.weights(batch, spec)
        loss = policy_loss(log_probs, targets.old_log_probs, targets.advantages, weights, spec.clip)
        self._policy.backward(loss)
        losses = {
            stream: value_loss(value, old, to_go, weights, spec.critics.value_clip)
            for stream, value, old, to_go in zip(
                self._streams, ordered, targets.old_values, targets.returns, strict=True
            )
        }
        for critic, engine in self._critics:
            engine.backward(torch.stack([losses[stream] for stream in critic.streams]).sum())
        with torch.no_grad():
            sums.add(self._numbers(batch, targets, loss, losses, log_probs, entropy))

    def _numbers(
        self,
        batch: Scored,
        targets: Targets,
        loss: Tensor,
        losses: Mapping[str, Tensor],
        log_probs: Tensor,
        entropy: Tensor,
    ) -> Tensor:
        layout = batch.layout
        mask = layout.mask * (0.0 if batch.dummy else 1.0)
        first = [
            loss,
            mask.sum(),
            ((targets.old_log_probs - batch.reference) * mask).sum(),
            (layout.scatter(entropy) * mask).sum(),
            clip_fraction(log_probs, targets.old_log_probs, mask, self._spec.clip),
            (targets.advantages * mask).sum(),
        ]
        numbers = torch.stack([*first, *(losses[stream] for stream in self._streams)]).double()
        variances = [
            explained_variance_sums(old, to_go, mask)
            for old, to_go in zip(targets.old_values, targets.returns, strict=True)
        ]
        return torch.cat([numbers, *variances])
