"""`rewardModel` and `costModel`: scores learned from pairs of answers, alone or as an ensemble."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhf_api.stages.preference import CostModel, Ensemble, Preference, RewardModel
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.batches import Schedule, micro_batches
from rlhf_trainer.data.chat import prepare_tokenizer
from rlhf_trainer.data.pairs import Pairs, encode_pairs
from rlhf_trainer.engine import Engine
from rlhf_trainer.loop import train
from rlhf_trainer.losses.preference import cost_loss, poisson_weights, reward_loss, weighted_sum
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.prefix_check import pairs_as_rows
from rlhf_trainer.models.save import save_scorer
from rlhf_trainer.models.scorer import Kind, Rule, new_scorer
from rlhf_trainer.models.trainable import TrainableModel, make_trainable
from rlhf_trainer.models.vocabulary import fit_vocabulary
from rlhf_trainer.stages.pair_trust import judge
from rlhf_trainer.stages.stored_rows import remember, total

log = logging.getLogger(__name__)


class PairScorer(nn.Module):
    """What an engine trains: decoder and heads."""

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head

    def forward(self, inputs: Mapping[str, Tensor | None], ends: Tensor) -> Tensor:
        """[members, 2, P] float32 scores of P pairs, as rows [2 P, T] or as sequences [P, T], at their `ends` [2, P]."""
        hidden = self.decoder(**inputs, use_cache=False).last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device).view(-1, ends.shape[1])
        scores: Tensor = self.head(hidden[rows, ends]).float().movedim(-1, 0)
        return scores


class PairSums(NamedTuple):
    """Sums over the pairs of a micro-batch, or of a step."""

    loss: Tensor
    in_order: Tensor
    """Pairs whose first answer scores higher; a tie is a half."""
    margin: Tensor
    right_sign: Tensor
    """Answers whose score has the sign of their label."""


class PreferenceTask:
    """The steps of a reward or cost model; one engine, or one a member where trunks are separate."""

    def __init__(
        self,
        context: StageContext,
        spec: Preference,
        modules: Sequence[PairScorer],
        data: Pairs,
        boundary: FrozenTrunkInputs,
    ) -> None:
        self._context = context
        self.spec = spec
        self._data = data
        self._boundary = boundary
        self._budget = context.micro_batch_tokens
        self._schedule = Schedule(data.trained, spec.batch_size, spec.epochs, spec.max_steps, context.seed)
        self._weights = torch.from_numpy(poisson_weights(data.trained, spec.members, context.seed))
        self.total = self._schedule.total
        self.repeats = self.total > self._schedule.steps_per_epoch
        self.engines = {
            f"member-{index}": Engine(
                module, optimizer=spec, total_steps=self.total, context=context, name=f"member-{index}"
            )
            for index, module in enumerate(modules)
        }
        self.pairs_seen = 0

    def step(self, step: int) -> dict[str, float | Tensor]:
        """One optimizer step over `batchSize` pairs."""
        pairs = self._schedule.step(step)
        mine = micro_batches(self._data.lengths, pairs, self._budget, self._context.world)[self._context.rank]
        sums = torch.zeros(len(PairSums._fields), device=self._context.device)
        norms = []
        metrics: dict[str, float | Tensor] = {}
        with self._context.metrics.phase("update", tokens=self._data.tokens(pairs)) as phase:
            for number, engine in enumerate(self.engines.values()):
                engine.module.train()
                for batch in phase.each(mine):
                    scores = self._scores(number, batch.rows)
                    live = 0.0 if batch.dummy else 1.0
                    loss = self._loss(scores, batch.rows, number) * (live / len(pairs))
                    engine.backward(loss)
                    sums += live * torch.stack(self._sums(loss.detach(), scores.detach(), batch.rows))
                metrics["learning_rate"] = engine.rate
                norms.append(engine.step())
        self.pairs_seen += len(pairs)
        totals = PairSums(*(total(sums) / len(self.engines)).unbind())
        metrics |= {
            "loss": totals.loss,
            "accuracy": totals.in_order / len(pairs),
            "margin": totals.margin / len(pairs),
            "grad_norm": max(norms),
            "tokens": float(self._data.tokens(pairs)),
            "epoch": (step + 1) / self._schedule.steps_per_epoch,
        }
        if isinstance(self.spec, CostModel):
            metrics["sign_accuracy"] = totals.right_sign / (2 * len(pairs))
        every = self.spec.eval_every
        if every and (step + 1) % every == 0 and self._data.heldout:
            first, second = self.heldout_scores().mean(1)
            metrics["heldout_accuracy"] = float((np.sign(first - second) / 2 + 0.5).mean())
        return metrics

    def _scores(self, number: int, pairs: Sequence[int]) -> Tensor:
        """[members of the engine, 2, P] scores of both answers of some pairs."""
        data, boundary = self._data, self._boundary
        if data.shares_prefix:
            inputs, laid = boundary.pairs([data.sequences[pair] for pair in pairs], pairs)
            ends = laid.ends
        else:
            rows = [2 * pair + side for side in (0, 1) for pair in pairs]
            inputs, padded = boundary.batch([data.encoded[row] for row in rows], rows)
            ends = padded.attention_mask.sum(1).view(2, -1) - 1
        scores: Tensor = list(self.engines.values())[number](inputs, ends.to(self._context.device))
        return scores

    def _loss(self, scores: Tensor, pairs: Sequence[int], number: int) -> Tensor:
        device, rows = scores.device, list(pairs)
        members = slice(number, number + 1) if len(self.engines) > 1 else slice(None)
        weights = self._weights[members][:, rows].to(device)
        first, second = scores[:, 0], scores[:, 1]
        if isinstance(self.spec, CostModel):
            signs = self._data.signs[rows].to(device)
            losses = cost_loss(first, second, signs[:, 0], signs[:, 1], self.spec.regularization)
        else:
            losses = reward_loss(first, second, self.spec.regularization, self._data.certainty[rows].to(device))
        return weighted_sum(losses, weights)

    def _sums(self, loss: Tensor, scores: Tensor, pairs: Sequence[int]) -> PairSums:
        first, second = scores.mean(0)
        signs = self._data.signs[list(pairs)].to(scores.device).T
        right = (torch.stack([first, second]) * signs > 0).sum()
        order = (torch.sign(first - second) / 2 + 0.5).sum()
        return PairSums(loss, order, (first - second).sum(), right.float())

    def heldout_scores(self) -> NDArray[np.float64]:
        """[2, members, P] of the held-out pairs; see `scores`. A collective."""
        return self.scores(self._data.heldout)

    @torch.no_grad()
    def scores(self, pairs: Sequence[int]) -> NDArray[np.float64]:
        """[2, members, P]: raw scores of both answers of some pairs. A collective."""
        context = self._context
        gathered = torch.zeros(2, self.spec.members, len(pairs), dtype=torch.float64, device=context.device)
        lengths = [self._data.lengths[pair] for pair in pairs]
        mine = micro_batches(lengths, range(len(pairs)), self._budget, context.world)[context.rank]
        with context.metrics.phase("evaluate", tokens=self._data.tokens(pairs)) as phase:
            for number, engine in enumerate(self.engines.values()):
                engine.module.eval()
                members = slice(number, number + 1) if len(self.engines) > 1 else slice(None)
                for batch in phase.each(mine):
                    scores = self._scores(number, [pairs[row] for row in batch.rows]).double()
                    if not batch.dummy:
                        gathered[:, members, list(batch.rows)] = scores.transpose(0, 1)
        return np.asarray(total(gathered).cpu().numpy())

    def state(self) -> dict[str, Any]:
        """Pairs seen so far."""
        return {"pairs_seen": self.pairs_seen}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.pairs_seen = state["pairs_seen"]


def run(context: StageContext) -> None:
    """Train and publish a reward or cost model.

    Raises:
        InputError: data or model cannot be used.
    """
    cost = context.file.type == "costModel"
    spec: Preference = context.spec(CostModel) if cost else context.spec(RewardModel)
    entry = context.input(spec.model)
    cache = context.storage / "inputs"
    tokenizer = load_tokenizer(entry.path, cache)
    notes = prepare_tokenizer(tokenizer, entry.template)
    data, counts, answers = encode_pairs(context, spec, tokenizer, context.seed)
    rule = _rule(spec)
    seeds = [context.seed * 1009 + member for member in range(spec.members)]
    scorer = new_scorer(
        entry.path, spec.dtype, rule=rule, seeds=seeds, pad_token_id=tokenizer.pad_token_id, cache=cache
    )
    parts = []
    for member, model in enumerate(scorer.models):
        fit_vocabulary(model, tokenizer)
        parts.append(make_trainable(model, spec, context.file.execution, seed=seeds[member], device=context.device))
    notes.extend(parts[0].notes)
    # Frozen layers are the same for every member: one of them, and one file of states, serves all.
    boundary = FrozenTrunkInputs(parts[0].trunk, context.device, tokenizer.pad_token_id)
    data.shares_prefix = pairs_as_rows(parts[0].decoder, boundary, data.sequences[0], max(map(len, data.encoded)))
    if not data.shares_prefix:
        log.info("this model does not compute a pair as one sequence: prompts are computed once an answer")
    task = PreferenceTask(context, spec, [PairScorer(part.decoder, part.head) for part in parts], data, boundary)
    if task.repeats:
        key = f"{entry.digest}-{spec.trainable_layers}"
        remember(context, boundary, data.sequences if data.shares_prefix else data.encoded, key, parts[0].model.dtype)
    train(context, task)
    _publish(context, task, parts, rule, tokenizer, data, answers, counts, notes)
    if context.rank == 0:
        for file in context.work.glob("states.*"):
            file.unlink(missing_ok=True)


def _rule(spec: Preference) -> Rule:
    ensemble = spec.ensemble or Ensemble()
    trunk = ensemble.trunk if spec.members > 1 else "shared"
    kind: Kind = "cost" if isinstance(spec, CostModel) else "reward"
    return Rule(kind=kind, trunk=trunk, members=spec.members, combine=ensemble.combine, k=ensemble.k)


def _publish(
    context: StageContext,
    task: PreferenceTask,
    parts: Sequence[TrainableModel],
    rule: Rule,
    tokenizer: Any,
    data: Pairs,
    answers: Sequence[tuple[str, str]],
    counts: dict[str, int],
    notes: list[str],
) -> None:
    scores = task.heldout_scores()
    heldout = data.heldout
    spec = task.spec
    if rule.kind == "reward" and rule.members > 1 and isinstance(spec, RewardModel) and spec.standardize:
        reference = scores if scores.shape[-1] else task.scores(range(data.trained))
        rule = _standardised(rule, reference, notes, "held-out" if scores.shape[-1] else "training")
    trust = judge(rule, scores, data, heldout, answers[: 2 * len(heldout)])
    if data.test:
        tested = judge(rule, task.scores(data.test), data, data.test, answers[2 * len(heldout) :])
        trust.metrics["test"] = tested.metrics
        trust.notes += [f"on the test pairs, {note}" for note in tested.notes]
        if seen_prompts := counts["test.seen_prompts"]:
            trust.notes.append(f"{seen_prompts} of {len(data.test)} test pairs have a prompt that was trained on")
    states = [part.product(engine.state_dict()) for part, engine in zip(parts, task.engines.values(), strict=True)]

    def build(folder: Path) -> Facts:
        save_scorer(folder, states, [part.model for part in parts], rule, tokenizer)
        metrics = {"steps": task.total, **trust.metrics}
        return Facts({**counts, "pairs.seen": task.pairs_seen, "steps": task.total}, metrics, [*notes, *trust.notes])

    context.publish(build)


def _standardised(rule: Rule, scores: NDArray[np.float64], notes: list[str], which: str) -> Rule:
    flat = scores.transpose(1, 0, 2).reshape(rule.members, -1)
    mean, std = flat.mean(1), flat.std(1)
    if not (std > 0).all():
        notes.append("a member gives every answer the same score: members are not standardised")
        return rule
    notes.append(f"members are standardised on the {which} answers")
    return replace(rule, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
