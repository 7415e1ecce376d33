"""What a micro-batch learns from: old log-probabilities and values, advantages and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer.ppo.advantages import combine, gae, token_rewards, whiten
from rlhf_trainer.ppo.judges import Values
from rlhf_trainer.ppo.scorer import Scored


@dataclass(frozen=True)
class Objective:
    """What a rollout's advantages are formed with; numbers equal on all ranks."""

    reward: Values
    """[answers of the rollout] R, the missing-EOS penalty taken off."""
    costs: Sequence[Values]
    """[answers] each, raw."""
    multipliers: Sequence[float]
    beta: float


@dataclass(frozen=True)
class Targets:
    """What a micro-batch learns from, [B, T] each; streams are the reward and then every cost."""

    old_log_probs: Tensor
    advantages: Tensor
    old_values: list[Tensor]
    returns: list[Tensor]
    streams: list[Tensor] = field(default_factory=list)
    """Advantages of each stream, which `advantages` combines."""

    def weighed(self, multipliers: Sequence[float]) -> Targets:
        """The same with advantages combined by other multipliers."""
        return replace(self, advantages=combine(self.streams[0], self.streams[1:], multipliers))

    def row(self, index: int, size: int) -> Targets:
        """One answer's, [size], on the CPU."""

        def cut(x: Tensor) -> Tensor:
            return x[index, :size].cpu()

        return Targets(
            cut(self.old_log_probs),
            cut(self.advantages),
            [cut(x) for x in self.old_values],
            [cut(x) for x in self.returns],
            [cut(x) for x in self.streams],
        )

    @staticmethod
    def stack(rows: Sequence[Targets], like: Tensor) -> Targets:
        """Rows padded to `like`, [B, T]."""

        def lay(pick: Callable[[Targets], Tensor]) -> Tensor:
            padded = torch.zeros_like(like)
            for index, row in enumerate(rows):
                values = pick(row)
                padded[index, : len(values)] = values
            return padded

        streams = range(len(rows[0].returns))
        return Targets(
            lay(lambda row: row.old_log_probs),
            lay(lambda row: row.advantages),
            [lay(lambda row, i=i: row.old_values[i]) for i in streams],  # type: ignore[misc]
            [lay(lambda row, i=i: row.returns[i]) for i in streams],  # type: ignore[misc]
            [lay(lambda row, i=i: row.streams[i]) for i in range(len(rows[0].streams))],  # type: ignore[misc]
        )


def compute_targets(
    spec: Ppo, objective: Objective, batch: Scored, log_probs: Tensor, values: Sequence[Tensor]
) -> Targets:
    """Advantages and returns of a micro-batch; no gradient.

    Args:
        spec: of the stage.
        objective: of the rollout.
        batch: its answers.
        log_probs: [B, T] of the policy that sampled.
        values: [B, T] a stream: the reward's, then each cost's.
    """
    mask = batch.layout.mask
    log_probs, values = log_probs.detach(), [value.detach() for value in values]
    kl = log_probs - batch.reference
    advantages, returns = [], []
    for stream, (scores, value) in enumerate(zip([objective.reward, *objective.costs], values, strict=True)):
        score = torch.as_tensor(scores[list(batch.rows)], dtype=mask.dtype, device=mask.device)
        beta = objective.beta if stream == 0 else -objective.beta
        rewards = token_rewards(score, kl, mask, beta=beta, clip=spec.reward_clip)
        advantage, to_go = gae(rewards, value, mask, gamma=spec.gamma, decay=spec.gae_lambda)
        advantages.append(advantage)
        returns.append(to_go)
    combined = combine(advantages[0], advantages[1:], objective.multipliers)
    return Targets(log_probs, combined, list(values), returns, advantages)


def whitened(targets: Mapping[int, Targets]) -> dict[int, Targets]:
    """Targets of a whole rollout, by answer, with advantages of mean 0 and deviation 1 over its tokens."""
    everything = torch.cat([targets[row].advantages for row in sorted(targets)]).double()
    mean, variance = float(everything.mean()), float(everything.var(correction=0))
    scaled = {}
    for row, target in targets.items():
        advantages = whiten(target.advantages, torch.ones_like(target.advantages), mean=mean, variance=variance)
        scaled[row] = replace(target, advantages=advantages)
    return scaled


@dataclass(frozen=True)
class FreshTargets:
    """Targets from the log-probabilities and values of the training forward itself."""

    spec: Ppo
    objective: Objective

    def targets(self, batch: Scored, log_probs: Tensor, values: Sequence[Tensor]) -> Targets:
        """See `compute_targets`."""
        return compute_targets(self.spec, self.objective, batch, log_probs, values)


@dataclass(frozen=True)
class StoredTargets:
    """Targets that were computed before the first optimizer step."""

    by_answer: Mapping[int, Targets]

    def targets(self, batch: Scored, *_: object) -> Targets:
        """The batch's rows, padded; this forward's log-probabilities and values play no part in them."""
        return Targets.stack([self.by_answer[row] for row in batch.rows], batch.layout.mask)


TargetSource = FreshTargets | StoredTargets
