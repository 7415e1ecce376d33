"""`moderation`: which labels an answer has, learned from labelled answers; a label that a row does not tell is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhf_api.stages.moderation import Moderation
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.batches import Schedule, micro_batches
from rlhf_trainer.data.chat import prepare_tokenizer
from rlhf_trainer.data.labelled_rows import LabelledRows, encode_labelled
from rlhf_trainer.engine import Engine
from rlhf_trainer.loop import train
from rlhf_trainer.losses.moderation import balanced_weights, label_loss
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.moderation import LabelRule, new_moderation
from rlhf_trainer.models.save import save_moderation
from rlhf_trainer.models.trainable import TrainableModel, make_trainable
from rlhf_trainer.models.vocabulary import fit_vocabulary
from rlhf_trainer.stages.stored_rows import remember, total
from rlhf_trainer.statistics.label_trust import Thresholds, label_trust, macro_auroc


class LabelScorer(nn.Module):
    """What the engine trains: decoder and head."""

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head

    def forward(self, inputs: Mapping[str, Tensor | None], ends: Tensor) -> Tensor:
        """[B, L] float32 logits of rows [B, T] at their `ends` [B]."""
        hidden = self.decoder(**inputs, use_cache=False).last_hidden_state
        logits: Tensor = self.head(hidden[torch.arange(len(hidden), device=hidden.device), ends]).float()
        return logits


class ModerationTask:
    """The steps of a moderation model."""

    def __init__(
        self,
        context: StageContext,
        spec: Moderation,
        module: LabelScorer,
        data: LabelledRows,
        boundary: FrozenTrunkInputs,
    ) -> None:
        self._context = context
        self._every = spec.eval_every
        self._data = data
        self._boundary = boundary
        self._budget = context.micro_batch_tokens
        self._schedule = Schedule(data.trained, spec.batch_size, spec.epochs, spec.max_steps, context.seed)
        trained = data.labels[: data.trained]
        weights = balanced_weights(trained) if spec.class_weights == "balanced" else torch.ones(len(data.names))
        self._weights = weights.to(context.device)
        self.total = self._schedule.total
        self.repeats = self.total > self._schedule.steps_per_epoch
        self._engine = Engine(module, optimizer=spec, total_steps=self.total, context=context, name="moderation")
        self.engines = {"moderation": self._engine}
        self.rows_seen = 0

    def step(self, step: int) -> dict[str, float | Tensor]:
        """One optimizer step over `batchSize` rows."""
        rows = self._schedule.step(step)
        known_labels = self._data.known(rows)
        mine = micro_batches(self._data.lengths, rows, self._budget, self._context.world)[self._context.rank]
        sums = torch.zeros(2, device=self._context.device)
        self._engine.module.train()
        with self._context.metrics.phase("update", tokens=self._data.tokens(rows)) as phase:
            for batch in phase.each(mine):
                logits, labels = self._logits(batch.rows), self._labels(batch.rows)
                live = 0.0 if batch.dummy else 1.0
                loss = label_loss(logits, labels, self._weights) * (live / known_labels)
                self._engine.backward(loss)
                right = ((logits.detach() > 0) == (labels == 1)) & ~torch.isnan(labels)
                sums += live * torch.stack([loss.detach(), right.sum() / known_labels])
            rate = self._engine.rate
            norm = self._engine.step()
        self.rows_seen += len(rows)
        loss_total, right_total = total(sums).unbind()
        metrics: dict[str, float | Tensor] = {
            "loss": loss_total,
            "label_accuracy": right_total,
            "grad_norm": norm,
            "learning_rate": rate,
            "tokens": float(self._data.tokens(rows)),
            "epoch": (step + 1) / self._schedule.steps_per_epoch,
        }
        if self._every and (step + 1) % self._every == 0 and self._data.heldout:
            heldout = self._data.labels[self._data.trained :].double().numpy()
            value = macro_auroc(self.heldout_probabilities(), heldout)
            metrics |= {"heldout_auroc": value} if math.isfinite(value) else {}
        return metrics

    def _logits(self, rows: Sequence[int]) -> Tensor:
        """[B, L] logits of some rows."""
        inputs, padded = self._boundary.batch([self._data.encoded[row] for row in rows], rows)
        ends = padded.attention_mask.sum(1) - 1
        logits: Tensor = self._engine(inputs, ends.to(self._context.device))
        return logits

    def _labels(self, rows: Sequence[int]) -> Tensor:
        return self._data.labels[list(rows)].to(self._context.device)

    @torch.no_grad()
    def heldout_probabilities(self) -> NDArray[np.float64]:
        """[H, L] of the held-out rows. A collective."""
        context, data = self._context, self._data
        gathered = torch.zeros(len(data.heldout), len(data.names), dtype=torch.float64, device=context.device)
        self._engine.module.eval()
        mine = micro_batches(data.lengths, data.heldout, self._budget, context.world)[context.rank]
        with context.metrics.phase("evaluate", tokens=data.tokens(data.heldout)) as phase:
            for batch in phase.each(mine):
                logits = self._logits(batch.rows).double()
                if not batch.dummy:
                    gathered[[row - data.trained for row in batch.rows]] = torch.sigmoid(logits)
        return np.asarray(total(gathered).cpu().numpy())

    def state_dict(self) -> dict[str, Tensor]:
        """The module's whole weights on rank 0. A collective."""
        return self._engine.state_dict()

    def state(self) -> dict[str, Any]:
        """Rows seen so far."""
        return {"rows_seen": self.rows_seen}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.rows_seen = state["rows_seen"]


def run(context: StageContext) -> None:
    """Train and publish a moderation model.

    Raises:
        InputError: data or model cannot be used.
    """
    spec = context.spec(Moderation)
    entry = context.input(spec.model)
    cache = context.storage / "inputs"
    tokenizer = load_tokenizer(entry.path, cache)
    notes = prepare_tokenizer(tokenizer, entry.template)
    data, counts, label_notes = encode_labelled(context, spec, tokenizer, context.seed)
    model = new_moderation(
        entry.path,
        spec.dtype,
        labels=data.names,
        seed=context.seed,
        pad_token_id=tokenizer.pad_token_id,
        cache=cache,
    )
    fit_vocabulary(model, tokenizer)
    part = make_trainable(model, spec, context.file.execution, seed=context.seed, device=context.device)
    boundary = FrozenTrunkInputs(part.trunk, context.device, tokenizer.pad_token_id)
    task = ModerationTask(context, spec, LabelScorer(part.decoder, part.head), data, boundary)
    if task.repeats:
        remember(context, boundary, data.encoded, f"{entry.digest}-{spec.trainable_layers}", part.model.dtype)
    train(context, task)
    _publish(context, spec, task, part, data, tokenizer, counts, [*notes, *part.notes, *label_notes])
    if context.rank == 0:
        for file in context.work.glob("states.*"):
            file.unlink(missing_ok=True)


def _publish(
    context: StageContext,
    spec: Moderation,
    task: ModerationTask,
    part: TrainableModel,
    data: LabelledRows,
    tokenizer: Any,
    counts: dict[str, int],
    notes: list[str],
) -> None:
    probabilities = task.heldout_probabilities()
    weights = part.product(task.state_dict())

    def build(folder: Path) -> Facts:
        trust, thresholds = label_trust(
            probabilities,
            data.labels[data.trained :].double().numpy(),
            np.array(data.answer_lengths(data.heldout), dtype=np.float64),
            data.prompts[data.trained :],
            data.names,
            Thresholds(spec.threshold, spec.thresholds == "bestF1"),
        )
        save_moderation(folder, weights, part.model, LabelRule(data.names, tuple(thresholds)), tokenizer)
        metrics = {"steps": task.total, **trust.metrics}
        return Facts({**counts, "rows.seen": task.rows_seen, "steps": task.total}, metrics, [*notes, *trust.notes])

    context.publish(build)
