"""Memory of `sft`, `rewardModel`, `costModel` and `moderation`."""

from __future__ import annotations

from rlhf_api.fields import MAX_ITEMS, DataRef
from rlhf_api.memory.terms import GPU_TOKENS, TOKENS, Moment, Terms
from rlhf_api.stages import Moderation, Sft
from rlhf_api.stages.common import Batches
from rlhf_api.stages.preference import Preference

SFT_LOGITS = 256
"""Positions whose logits `sft` holds at once."""


def moments(terms: Terms, spec: Sft | Preference | Moderation) -> list[Moment]:
    """The one that counts: a step."""
    model, _ = terms.model(spec.model)
    size = terms.size(spec.dtype)
    copies = spec.members if isinstance(spec, Preference) and _separate(spec) else 1
    layers = spec.trainable_layers
    trained = terms.trained(model, spec, layers)
    frozen = model.parameters - trained if layers is not None else 0
    head = model.hidden * (_outputs(spec) if copies == 1 else 1)
    tokens = _row_tokens(terms, spec)
    parts = {
        "weights": size * (frozen + copies * (terms.sharded(model.parameters - frozen) + head)),
        "activations": terms.activations(model, layers or model.layers, tokens, size)
        + (terms.forward(model, tokens, size) if layers is not None else 0),
        "logits": 3 * 4 * SFT_LOGITS * model.vocabulary if isinstance(spec, Sft) else 0,
    }
    optimizer = terms.optimizer(trained, size)
    parts |= {name: copies * bytes_ for name, bytes_ in optimizer.items()}
    return [parts]


def _row_tokens(terms: Terms, spec: Batches) -> int:
    """Tokens of a micro-batch: what the budget allows, or a whole batch where that is less."""
    data: list[DataRef] = spec.data if isinstance(spec, Sft | Preference | Moderation) else []
    width = 2 if isinstance(spec, Preference) else 1
    longest = terms.longest(data, spec.max_length)
    if isinstance(spec, Sft) and spec.packing:
        longest = spec.max_length
    batch = longest * width * -(-spec.batch_size // terms.ranks)
    budget = terms.execution.micro_batch_tokens or (GPU_TOKENS if terms.device == "cuda" else TOKENS)
    return max(longest * width, min(budget, batch))


def _outputs(spec: Sft | Preference | Moderation) -> int:
    """Rows of a new head; labels that the data alone tells are taken to be as many as a job may name."""
    if isinstance(spec, Sft):
        return 0
    return spec.members if isinstance(spec, Preference) else len(spec.labels) or MAX_ITEMS


def _separate(spec: Preference) -> bool:
    return spec.ensemble is not None and spec.ensemble.trunk == "separate"
