"""`sft`: supervised fine-tuning on the assistant's turns."""

from __future__ import annotations

from rlhf_api.fields import DataRefs, ModelRef
from rlhf_api.stages.common import Batches, Optimizer


class Sft(Optimizer, Batches):
    """Supervised fine-tuning: cross-entropy on the assistant's turns only."""

    model: ModelRef
    """The model to start from."""
    data: DataRefs
    """Conversations, or prompts with completions."""
    packing: bool = False
    """Put several conversations in one row of `maxLength`, each attending to itself only; else length buckets."""
