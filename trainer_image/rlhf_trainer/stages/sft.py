"""`sft`: cross-entropy on the assistant's turns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhf_api.stages.sft import Sft
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.batches import Schedule, micro_batches
from rlhf_trainer.data.chat import encode_conversation, prepare_tokenizer
from rlhf_trainer.data.checks import Encodings
from rlhf_trainer.data.load import load_conversations
from rlhf_trainer.data.splits import opening, split_by_prompt
from rlhf_trainer.engine import Engine
from rlhf_trainer.exits import InputError
from rlhf_trainer.loop import train
from rlhf_trainer.losses.sft import nll_by_row, nll_sum, targets
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.load import check_logits, load_policy
from rlhf_trainer.models.prefix_check import packs_as_rows
from rlhf_trainer.models.save import save_policy
from rlhf_trainer.models.trainable import TrainableModel, make_trainable
from rlhf_trainer.models.vocabulary import fit_vocabulary
from rlhf_trainer.stages.sft_rows import SftData
from rlhf_trainer.stages.stored_rows import remember, total
from rlhf_trainer.statistics.intervals import Intervals, decide

TRIED_ROWS = 3
"""Conversations that are packed to see whether the model keeps them apart."""


class LanguageModel(nn.Module):
    """What the engine trains: decoder and output head, with the loss inside, where ZeRO 3 has the weights."""

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head

    def forward(
        self, inputs: Mapping[str, Tensor | None], chosen: Tensor, labels: Tensor, by_row: bool = False
    ) -> Tensor:
        """Sum of -log p over the learned tokens.

        Args:
            inputs: What the decoder takes, [B, T] (or states [B, T, H]).
            chosen: [B, T - 1] bool: states that predict a learned token.
            labels: [N] those tokens.
            by_row: A sum a row, without gradients, instead of one.

        Returns:
            Scalar float32; by row [B] float64.
        """
        hidden = self.decoder(**inputs, use_cache=False).last_hidden_state[:, :-1]
        if by_row:
            return nll_by_row(hidden[chosen], labels, chosen.nonzero()[:, 0], len(chosen), self.head)
        return nll_sum(hidden[chosen], labels, self.head)


class SftTask:
    """The steps of supervised fine-tuning."""

    def __init__(
        self, context: StageContext, spec: Sft, model: LanguageModel, data: SftData, boundary: FrozenTrunkInputs
    ) -> None:
        self._context = context
        self._spec = spec
        self._data = data
        self._boundary = boundary
        self._budget = context.micro_batch_tokens
        self._schedule = Schedule(len(data.rows), spec.batch_size, spec.epochs, spec.max_steps, context.seed)
        self._lengths = [data.length(row) for row in data.rows]
        self.total = self._schedule.total
        self.repeats = self.total > self._schedule.steps_per_epoch
        """Whether rows come back."""
        self.engine = Engine(model, optimizer=spec, total_steps=self.total, context=context, name="policy")
        self.engines = {"policy": self.engine}
        self.before: Tensor | None = None
        """[R] summed -log p of each held-out row before the first step."""
        self.tokens = 0

    def step(self, step: int) -> dict[str, float | Tensor]:
        """One optimizer step over `batchSize` rows."""
        metrics: dict[str, float | Tensor] = {}
        if step == 0:
            self.before = self.heldout()
        rows = self._schedule.step(step)
        learned = sum(self._data.learned(self._data.rows[row]) for row in rows)
        mine = micro_batches(self._lengths, rows, self._budget, self._context.world)[self._context.rank]
        share = torch.zeros((), device=self._context.device)
        self.engine.module.train()
        with self._context.metrics.phase("update", tokens=sum(self._lengths[row] for row in rows)) as phase:
            for batch in phase.each(mine):
                weight = 0.0 if batch.dummy else 1.0 / max(1, learned)
                loss = self._nll([self._data.rows[row] for row in batch.rows]) * weight
                self.engine.backward(loss)
                share += loss.detach()
            metrics["learning_rate"] = self.engine.rate
            metrics["grad_norm"] = self.engine.step()
        self.tokens += learned
        metrics["loss"] = total(share)
        metrics["tokens"] = float(learned)
        metrics["epoch"] = (step + 1) / self._schedule.steps_per_epoch
        every = self._spec.eval_every
        if every and (step + 1) % every == 0 and self._data.heldout:
            metrics["heldout_loss"] = float(self.heldout().sum()) / self.heldout_tokens.sum()
        return metrics

    def _nll(self, rows: Sequence[Sequence[int]], by_row: bool = False) -> Tensor:
        encoded = [[self._data.encoded[index] for index in row] for row in rows]
        if self._data.packed:
            inputs, packed = self._boundary.packs(encoded, rows)
            chosen, labels = targets(packed.input_ids, packed.mask)
        else:
            inputs, padded = self._boundary.batch([row[0] for row in encoded], [row[0] for row in rows])
            chosen, labels = targets(padded.input_ids, padded.mask)
        device = self._context.device
        result: Tensor = self.engine(inputs, chosen.to(device), labels.to(device), by_row)
        return result

    @property
    def heldout_tokens(self) -> NDArray[np.float64]:
        """[R] learned tokens of each held-out row."""
        return np.array([self._data.learned(row) for row in self._data.heldout], dtype=np.float64)

    @property
    def dialogues(self) -> list[int]:
        """[R] the dialogue of each held-out row."""
        return self._data.dialogues

    @torch.no_grad()
    def heldout(self) -> Tensor:
        """[R] summed -log p of each held-out row, float64, on the CPU. A collective."""
        rows = self._data.heldout
        sums = torch.zeros(len(rows), dtype=torch.float64, device=self._context.device)
        lengths = [self._data.length(row) for row in rows]
        mine = micro_batches(lengths, range(len(rows)), self._budget, self._context.world)[self._context.rank]
        self.engine.module.eval()
        with self._context.metrics.phase("evaluate", tokens=sum(lengths)) as phase:
            for batch in phase.each(mine):
                nll = self._nll([rows[row] for row in batch.rows], by_row=True)
                if not batch.dummy:
                    sums[list(batch.rows)] = nll
        return total(sums).cpu()

    def state(self) -> dict[str, Any]:
        """What was measured and counted so far."""
        return {"before": self.before, "tokens": self.tokens}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.before, self.tokens = state["before"], state["tokens"]


def run(context: StageContext) -> None:
    """Train and publish a policy.

    Raises:
        InputError: data or model cannot be used.
    """
    spec = context.spec(Sft)
    entry = context.input(spec.model)
    model, tokenizer = load_policy(entry.path, spec.dtype, context.storage / "inputs")
    check_logits(model, f"model ({spec.model.key})")
    notes = prepare_tokenizer(tokenizer, entry.template)
    fit_vocabulary(model, tokenizer)
    data, counts = _data(context, spec, tokenizer, notes)
    trained = make_trainable(model, spec, context.file.execution, seed=context.seed, device=context.device)
    notes.extend(trained.notes)
    boundary = FrozenTrunkInputs(trained.trunk, context.device, tokenizer.pad_token_id)
    if data.packed and not packs_as_rows(trained.decoder, boundary, data.encoded[:TRIED_ROWS]):
        raise InputError(
            f"packing: in models of type {model.config.model_type!r} packed conversations see each other (their states "
            "differ from those computed apart); leave packing out"
        )
    task = SftTask(context, spec, LanguageModel(trained.decoder, trained.head), data, boundary)
    if task.repeats:
        key = f"{entry.digest}-{spec.trainable_layers}"
        remember(context, boundary, data.encoded, key, model.dtype)
    train(context, task)
    _publish(context, task, trained, tokenizer, counts, notes)
    if context.rank == 0:
        for file in context.work.glob("states.*"):
            file.unlink(missing_ok=True)


def _data(context: StageContext, spec: Sft, tokenizer: Any, notes: list[str]) -> tuple[SftData, dict[str, int]]:
    encodings = Encodings(
        lambda row: encode_conversation(tokenizer, row.messages, spec.max_length, row.prompt_turns, row.tools)
    )
    conversations, read = load_conversations(context, spec.data, encodings)
    train_rows, held_rows = split_by_prompt(conversations, spec.holdout, context.seed)
    encoded = [[encodings[row] for row in rows] for rows in (train_rows, held_rows)]
    dialogues = [opening(row) for row in held_rows]
    data = SftData(encoded[0], encoded[1], spec.max_length if spec.packing else None, dialogues)
    if not any(data.learned(row) for row in data.rows):
        raise InputError("data: no conversation has a token to learn within maxLength; raise it")
    counts = {
        **read.as_dict(),
        "rows.train": len(train_rows),
        "rows.heldout": len(held_rows),
        "rows.cut_prompt": sum(row.cut_prompt > 0 for row in data.encoded),
        "rows.cut_answer": sum(row.cut_answer > 0 for row in data.encoded),
        "tokens.cut": sum(row.cut_prompt + row.cut_answer for row in data.encoded),
        "turns.skipped": sum(row.skipped_turns for row in data.encoded),
        "turns.silent": sum(row.silent_turns for row in data.encoded),
    }
    if spec.packing:
        counts["packs"] = len(data.rows)
    if not held_rows:
        notes.append("nothing is held out: the loss on unseen text is unknown")
    if counts["turns.skipped"]:
        notes.append(
            f"{counts['turns.skipped']} earlier assistant turns carry no loss: the chat template rewrites them as history"
        )
    if counts["turns.silent"]:
        notes.append(f"{counts['turns.silent']} earlier assistant turns carry no loss: they say nothing")
    return data, counts


def _publish(
    context: StageContext,
    task: SftTask,
    trained: TrainableModel,
    tokenizer: Any,
    counts: dict[str, int],
    notes: list[str],
) -> None:
    after = task.heldout()
    weights = trained.product(task.engine.state_dict())
    metrics: dict[str, Any] = {"steps": task.total}
    if task.before is not None and len(after):
        estimates, heldout_notes = heldout_metrics(
            task.before.numpy(), after.numpy(), task.heldout_tokens, task.dialogues, context.seed
        )
        metrics |= estimates
        notes.extend(heldout_notes)

    def build(folder: Path) -> Facts:
        save_policy(folder, weights, trained.model, tokenizer)
        return Facts({**counts, "tokens.learned": task.tokens, "steps": task.total}, metrics, notes)

    context.publish(build)


def heldout_metrics(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    tokens: NDArray[np.float64],
    dialogues: Sequence[int],
    seed: int,
) -> tuple[dict[str, Any], list[str]]:
    """Loss on held-out rows before and after, and its change with an interval over dialogues.

    Args:
        before: [R] summed -log p of each row at the start.
        after: [R] the same at the end.
        tokens: [R] learned tokens.
        dialogues: [R] the dialogue each row is from; rows of one are drawn together.
        seed: Of the bootstrap.

    Returns:
        (estimates {value, low, high, n, method} in nats a token, and perplexities; notes).
    """
    intervals = Intervals(seed=seed)
    _, numbers = np.unique(dialogues, return_inverse=True)
    before, after, tokens = (
        np.bincount(numbers, weights=values).astype(np.float64) for values in (before, after, tokens)
    )
    change = intervals.ratio(after - before, tokens)
    losses = {"heldout_loss_before": intervals.ratio(before, tokens), "heldout_loss": intervals.ratio(after, tokens)}
    metrics: dict[str, Any] = {name: estimate.as_json() for name, estimate in losses.items()}
    metrics["heldout_loss_change"] = change.as_json()
    for name, estimate in losses.items():
        if estimate.value is not None:
            metrics[name.replace("loss", "perplexity")] = math.exp(min(estimate.value, 700.0))
    notes = []
    if decide(change) == "shows nothing":
        notes.append(
            "the interval of the held-out loss' change includes 0, or rests on too few dialogues: it shows nothing"
        )
    elif decide(change) == "higher":
        notes.append("the held-out loss rose: the model unlearned what carries over to unseen text")
    return metrics, notes
