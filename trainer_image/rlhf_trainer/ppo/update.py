"""From scored answers to gradients: one micro-batch at a time, sums that add up over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer import distributed
from rlhf_trainer.engine import Engine
from rlhf_trainer.generation.logprobs import Layout
from rlhf_trainer.losses.ppo import (
    clip_fraction,
    explained_variance,
    explained_variance_sums,
    policy_loss,
    token_weights,
    value_loss,
)
from rlhf_trainer.ppo.advantages import combine, gae, token_rewards, whiten
from rlhf_trainer.ppo.critics import Critic
from rlhf_trainer.ppo.judges import Values
from rlhf_trainer.ppo.policy import Inputs


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


def form_targets(
    spec: Ppo,
    objective: Objective,
    rows: Sequence[int],
    mask: Tensor,
    log_probs: Tensor,
    reference: Tensor,
    values: Sequence[Tensor],
) -> Targets:
    """Advantages and returns of some answers; no gradient.

    Args:
        spec: of the stage.
        objective: of the rollout.
        rows: which of its answers.
        mask: [B, T].
        log_probs: [B, T] of the policy that sampled.
        reference: [B, T] of the reference.
        values: [B, T] a stream: the reward's, then each cost's.
    """
    log_probs, values = log_probs.detach(), [value.detach() for value in values]
    kl = log_probs - reference
    advantages, returns = [], []
    for stream, (scores, value) in enumerate(zip([objective.reward, *objective.costs], values, strict=True)):
        score = torch.as_tensor(scores[list(rows)], dtype=mask.dtype, device=mask.device)
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


class Updater:
    """Forward and backward of policy and critics."""

    def __init__(self, spec: Ppo, policy: Engine, critics: Sequence[tuple[Critic, Engine]], streams: list[str]) -> None:
        self._spec = spec
        self._policy = policy
        self._critics = list(critics)
        self._streams = streams

    def learn(
        self,
        layout: Layout,
        inputs: Inputs,
        critic_inputs: Sequence[Inputs],
        form: Callable[[Tensor, list[Tensor]], Targets],
        reference: Tensor,
        share: Share,
        sums: Sums,
    ) -> None:
        """Gradients of one micro-batch.

        Args:
            layout: its prompts and answers.
            inputs: of the policy's decoder.
            critic_inputs: of each critic's decoder.
            form: gives the targets, from this forward's [B, T] log-probabilities and values (one a stream).
            reference: [B, T] log-probabilities of the reference.
            share: its part in the optimizer step.
            sums: takes its numbers in.
        """
        spec = self._spec
        flat, entropy = self._policy(inputs, layout.predictors, layout.targets, spec.rollout.temperature)
        log_probs = layout.scatter(flat)
        values: dict[str, Tensor] = {}
        heads = []
        for (critic, engine), critic_input in zip(self._critics, critic_inputs, strict=True):
            flat_values = engine(critic_input, layout.predictors)
            heads.append(flat_values)
            for index, stream in enumerate(critic.streams):
                values[stream] = layout.scatter(flat_values[:, index])
        ordered = [values[stream] for stream in self._streams]
        targets = form(log_probs, ordered)
        weights = share.weights(layout.mask, spec)
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
            sums.add(self._numbers(layout, targets, loss, losses, log_probs, reference, entropy, share))

    def _numbers(
        self,
        layout: Layout,
        targets: Targets,
        loss: Tensor,
        losses: Mapping[str, Tensor],
        log_probs: Tensor,
        reference: Tensor,
        entropy: Tensor,
        share: Share,
    ) -> Tensor:
        mask = layout.mask * (0.0 if share.dummy else 1.0)
        first = [
            loss,
            mask.sum(),
            ((targets.old_log_probs - reference) * mask).sum(),
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


@dataclass(frozen=True)
class Share:
    """A micro-batch's part in an optimizer step."""

    tokens: int
    """Response tokens of the step, over all micro-batches and ranks."""
    answers: int
    dummy: bool = False
    """Weight 0: present so that every rank has as many forwards."""

    def weights(self, mask: Tensor, spec: Ppo) -> Tensor:
        """[B, T] of `token_weights`."""
        weights = token_weights(
            mask,
            spec.loss_normalization,
            tokens=self.tokens,
            answers=self.answers,
            longest=spec.rollout.max_new_tokens,
        )
        return weights * 0.0 if self.dummy else weights


def shares(numbers: Values) -> tuple[float, float]:
    """(mean, standard deviation) of a rollout's scores."""
    return float(np.mean(numbers)), float(np.std(numbers))
