"""Moderation models: a sequence classifier with a sigmoid a label, and the thresholds that make its labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_trainer.models.classifiers import draw_head, head_of, new_classifier
from rlhf_trainer.models.files import folder

MODERATION = "moderation.json"


@dataclass(frozen=True)
class LabelRule:
    """How logits become labels; the content of `moderation.json`. A label whose probability is at least its threshold is
    true of an answer."""

    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    """Of each label, in their order."""
    kind: str = "moderation"
    version: str = "1"

    def write(self, target: Path) -> None:
        """Write `moderation.json` into a folder."""
        (target / MODERATION).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def new_moderation(
    path: str | Path,
    dtype: torch.dtype | str,
    *,
    labels: Sequence[str],
    seed: int,
    pad_token_id: int,
    cache: Path | None = None,
) -> Any:
    """A classifier to be trained, from a language model or from another classifier.

    Args:
        path: Folder or GGUF file. A classifier of the same labels in the same order keeps its head.
        dtype: Of the weights.
        labels: A row of the head each.
        seed: Draws the head: a label's row depends on the seed and its place.
        pad_token_id: Written into the configuration.
        cache: As for `load_policy`.

    Raises:
        InputError: not a decoder that has a sequence classifier.
    """
    with folder(path, cache) as model_folder:
        model, has_head = new_classifier(model_folder, path, dtype, labels=len(labels), pad_token_id=pad_token_id)
    names = [model.config.id2label[index] for index in range(len(labels))]
    if not has_head or names != list(labels):
        draw_head(head_of(model), [seed * 1009 + index for index in range(len(labels))])
    return model
