"""Answers of a rollout in micro-batches, with what frozen models make of them: states, reference and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer import distributed
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.batches import MicroBatch, micro_batches
from rlhf_trainer.engine import Engine
from rlhf_trainer.generation.logprobs import Layout, lay_out, log_probs
from rlhf_trainer.models.adapters import disable_adapters
from rlhf_trainer.ppo.judges import RolloutScores, ScoreSource, call
from rlhf_trainer.ppo.models import Models
from rlhf_trainer.ppo.policy import Inputs
from rlhf_trainer.ppo.rollout import Rollout


@dataclass
class Scored:
    """A micro-batch after scoring."""

    rows: tuple[int, ...]
    dummy: bool
    layout: Layout
    reference: Tensor
    """[B, T] log-probabilities."""
    inputs: Inputs
    """Of the policy's decoder: token ids, or the states [B, L, H] of its frozen lower layers."""
    critic_inputs: list[Inputs]
    """Of each critic's decoder."""


class RolloutScorer:
    """Lays this rank's answers out and runs the frozen models over them."""

    def __init__(self, context: StageContext, spec: Ppo, models: Models, policy: Engine) -> None:
        self._context = context
        self._temperature = spec.rollout.temperature
        self._models = models
        self._policy = policy
        self._budget = context.micro_batch_tokens

    def dealt(self, rollout: Rollout, rows: Sequence[int]) -> list[MicroBatch]:
        """This rank's micro-batches of some answers."""
        context = self._context
        return micro_batches(rollout.lengths, rows, self._budget, context.world)[context.rank]

    def score(self, rollout: Rollout) -> tuple[list[Scored], RolloutScores]:
        """This rank's micro-batches, and the scores of all ranks' answers. A collective."""
        context, models = self._context, self._models
        scored: list[Scored] = []
        mine: dict[str, dict[int, tuple[float, float]]] = {judge.where: {} for judge in models.judges}
        with ExitStack() as stack:
            if models.reference_head is None:
                stack.enter_context(self._policy.gathered_parameters())
            phase = stack.enter_context(context.metrics.phase("score", tokens=sum(rollout.lengths)))
            for batch in phase.each(self.dealt(rollout, range(len(rollout.answers)))):
                layout = self._lay_out(rollout, batch.rows)
                hidden = models.frozen(layout.input_ids, None, layout.position_ids)
                states = {name: hidden[name] for name in self._state_names if name in hidden}
                scored.append(self._scored(batch, layout, self._reference(layout, hidden, states), states))
                for judge in models.judges:
                    if not batch.dummy:
                        mine[judge.where] |= _judged(judge, batch, rollout, hidden, layout)
        with context.metrics.phase("sync"):
            by_judge: dict[str, dict[int, tuple[float, float]]] = {judge.where: {} for judge in models.judges}
            for part in distributed.gather(mine):
                for where, values in part.items():
                    by_judge[where] |= values
        return scored, self._scores(by_judge, len(rollout.answers))

    def again(self, rollout: Rollout, rows: Sequence[int], reference: Mapping[int, Tensor]) -> list[Scored]:
        """This rank's micro-batches of some answers whose reference is known, by answer."""
        return [self._again(rollout, batch, reference) for batch in self.dealt(rollout, rows)]

    def _again(self, rollout: Rollout, batch: MicroBatch, reference: Mapping[int, Tensor]) -> Scored:
        layout = self._lay_out(rollout, batch.rows)
        names = [name for name in self._state_names if name in self._frozen_names]
        states = self._models.frozen(layout.input_ids, None, layout.position_ids, names) if names else {}
        padded = torch.zeros_like(layout.mask)
        for index, row in enumerate(batch.rows):
            padded[index, : len(reference[row])] = reference[row]
        return self._scored(batch, layout, padded, states)

    def _scored(self, batch: MicroBatch, layout: Layout, reference: Tensor, states: Mapping[str, Tensor]) -> Scored:
        critics = [_inputs(layout, states.get(f"critic.{c.name}")) for c in self._models.critics]
        return Scored(batch.rows, batch.dummy, layout, reference, _inputs(layout, states.get("policy")), critics)

    def _scores(self, by_judge: Mapping[str, Mapping[int, tuple[float, float]]], answers: int) -> RolloutScores:
        models = self._models
        columns = {
            where: np.array([values[row] for row in range(answers)], dtype=np.float64)
            for where, values in by_judge.items()
        }
        ensembles = [judge for judge in models.judges if judge.rule is not None and judge.rule.members > 1]
        return RolloutScores(
            rewards={judge.label: columns[judge.where][:, 0] for judge in models.rewards},
            costs={judge.label: columns[judge.where][:, 0] for judge in models.costs},
            disagreement={judge.label: columns[judge.where][:, 1] for judge in ensembles},
            gold=columns[models.gold.where][:, 0] if models.gold is not None else None,
        )

    @torch.no_grad()
    def _reference(self, layout: Layout, hidden: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> Tensor:
        head = self._models.reference_head
        if head is not None:
            flat, _ = log_probs(layout.gather(hidden["reference"]), head, layout.targets, self._temperature)
            return layout.scatter(flat)
        module = self._policy.module  # whole: `score` sees to it
        module.eval()
        with disable_adapters(module):
            flat, _ = module(
                _inputs(layout, states.get("policy")), layout.predictors, layout.targets, self._temperature
            )
        return layout.scatter(flat)

    @property
    def _state_names(self) -> list[str]:
        return ["policy", *(f"critic.{critic.name}" for critic in self._models.critics)]

    @property
    def _frozen_names(self) -> set[str]:
        names = {"policy"} if self._models.policy.trunk is not None else set()
        return names | {f"critic.{c.name}" for c in self._models.critics if c.trained.trunk is not None}

    def _lay_out(self, rollout: Rollout, rows: Sequence[int]) -> Layout:
        fill = int(self._models.tokenizer.eos_token_id)  # PAD may lie beyond the embeddings of a model that lacks it
        prompts, answers = [rollout.prompts[row] for row in rows], [rollout.answers[row] for row in rows]
        return lay_out(prompts, answers, fill, self._context.device)


def _inputs(layout: Layout, states: Tensor | None) -> Inputs:
    common = {"attention_mask": None, "position_ids": layout.position_ids}
    return {"input_ids": layout.input_ids, **common} if states is None else {"inputs_embeds": states, **common}


def _judged(
    judge: ScoreSource, batch: MicroBatch, rollout: Rollout, hidden: Mapping[str, Tensor], layout: Layout
) -> dict[int, tuple[float, float]]:
    if judge.function is not None:
        scores = call(judge, [rollout.messages[row] for row in batch.rows], [rollout.texts[row] for row in batch.rows])
        return {row: (score, 0.0) for row, score in zip(batch.rows, scores, strict=True)}
    score, spread = judge.score(hidden, layout.attention_mask)
    return dict(zip(batch.rows, zip(score.tolist(), spread.tolist(), strict=True), strict=True))
