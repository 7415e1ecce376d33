"""Ids beyond text: which of them end an answer, and rows that were added and may never be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_trainer.data.chat import ADDED_PAD

NEVER = -1e9
"""Logit of an id that is never predicted: its probability is exactly 0, and 0 x NEVER is 0, where 0 x -inf is NaN."""


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends an answer: the tokenizer's EOS first, then those that the model's configurations declare.

    Models declare several (Llama 3, Qwen, Gemma 3, GLM); ids that the tokenizer does not have are left out.
    """
    declared = [tokenizer.eos_token_id]
    for config in (model.generation_config, model.config, model.config.get_text_config()):
        ids = getattr(config, "eos_token_id", None)
        declared += ids if isinstance(ids, list | tuple) else [ids]
    return tuple(dict.fromkeys(int(i) for i in declared if i is not None and 0 <= i < len(tokenizer)))


def fit_vocabulary(model: Any, tokenizer: Any) -> None:
    """Give PAD a row in the embeddings where it has none, and keep ids that were added from being predicted. In place.

    Added are rows beyond the model's own, and the PAD of `prepare_tokenizer`, also where it took a spare row. No logit
    of theirs counts: not in a loss, not in a log-probability, not in sampling.
    """
    rows = len(model.get_input_embeddings().weight)
    if tokenizer.pad_token_id >= rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.padding_idx = None
    size = len(model.get_input_embeddings().weight)
    added = set(range(rows, size)) | ({tokenizer.pad_token_id} if tokenizer.pad_token == ADDED_PAD else set())
    if not added:
        return
    with torch.no_grad():
        level(model.get_input_embeddings().weight, sorted(added), len(tokenizer))
    head = model.get_output_embeddings()
    if head is not None:
        model.set_output_embeddings(MaskedHead(head, sorted(added), len(tokenizer)))


def level(rows: Tensor, added: Sequence[int], size: int) -> None:
    """Make added rows of an output head (or its bias) the mean of the others below `size`. In place.

    Without a mask, as plain transformers reads the product, the logit of such a row is then the mean of the others': it
    is never the highest, and by Jensen's inequality its probability is at most 1 / `size`, whatever the state.
    """
    others = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    others[list(added)] = False
    others[size:] = False
    rows[list(added)] = rows[others].float().mean(0).to(rows.dtype)


class MaskedHead(nn.Linear):
    """An output head that never predicts some ids. Shares the parameters of the head it stands for."""

    def __init__(self, head: nn.Linear, masked: Sequence[int], size: int) -> None:
        super().__init__(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        self.weight, self.bias = head.weight, head.bias
        self.masked = list(masked)
        self.size = size
        """Tokens of the tokenizer; rows beyond it are spare."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V]."""
        return mask_logits(super().forward(hidden), self.masked)

    def leveled(self, name: str, state: dict[str, Tensor]) -> None:
        """Level the masked rows of this head in a model's state, where the head's name is `name`. In place."""
        for part in ("weight", "bias"):
            rows = state.get(f"{name}.{part}")
            if rows is not None:
                state[f"{name}.{part}"] = rows.clone()
                level(state[f"{name}.{part}"], self.masked, self.size)


def mask_logits(logits: Tensor, masked: Sequence[int]) -> Tensor:
    """Logits [..., V] with NEVER at the masked ids."""
    if not masked:
        return logits
    return logits.index_fill(-1, torch.tensor(list(masked), device=logits.device), NEVER)
