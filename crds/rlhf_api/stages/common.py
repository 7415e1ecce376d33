"""What every trained stage shares: how it is optimised and which weights move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from rlhf_api.base import ApiModel, Cel, distinct
from rlhf_api.errors import Finding
from rlhf_api.fields import MAX_ITEMS, Count, Fraction, NonNegative, Positive, Seed, Whole

Dtype = Literal["float32", "bfloat16"]
Rows = Literal["prompts", "conversations", "pairs", "safety pairs", "completions", "labelled answers", "dialogues"]
"""What rows of data are made into."""


class Lora(ApiModel):
    """Low-rank adapters; the product holds the merged weights."""

    rank: Count = 16
    """Rank of the adapters."""
    alpha: Positive = 32.0
    """The update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""
    targets: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=80)]], Field(max_length=MAX_ITEMS), AfterValidator(distinct)
    ] = []
    """Names of the linear layers to adapt; empty: every linear layer but the head."""


class Optimizer(ApiModel):
    """AdamW, its schedule, and which weights move."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("!has(self.lora) || !has(self.trainableLayers)", "lora beside trainableLayers: expected one of them"),
    )

    learning_rate: Positive = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls after the warm-up; to 0 at the last step (`constant`: not at all)."""
    warmup_ratio: Fraction = 0.03
    """Share of all steps with a linear warm-up."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay; never on biases and norms."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this global norm."""
    dtype: Dtype = "float32"
    """Compute type of the weights; the optimizer always keeps float32 copies."""
    trainable_layers: Count | None = None
    """Train only the top layers (and the final norm and head); those below run once without gradients."""
    lora: Lora | None = None
    """Train low-rank adapters instead of the weights."""
    seed: Seed | None = None
    """Seed of order, heads and sampling; by default `spec.seed`."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.lora is not None and self.trainable_layers is not None:
            message = "found lora beside trainableLayers; expected one: adapters move no weights of a layer"
            yield Finding(("lora",), message, "leave one out; lora.targets chooses layers by name")


class Batches(ApiModel):
    """How rows become batches."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Passes over the data; may be a fraction."""
    max_steps: Count | None = None
    """Stop after this many steps, whatever `epochs` says."""
    batch_size: Count = 32
    """Rows (pairs for preferences) an optimizer step takes, over all ranks."""
    max_length: Annotated[int, Field(ge=8, le=1048576)] = 512
    """Tokens a row may have; longer ones lose the start of their prompt, never EOS. What was cut is counted."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of prompts set aside and measured; never trained on (split by prompt, seeded)."""
    eval_every: Whole = 0
    """Measure the held-out rows every so many steps as well as at the end; 0: at the end."""
