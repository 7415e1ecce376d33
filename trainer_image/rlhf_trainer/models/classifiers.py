"""Sequence classifiers as scorers and moderation models need them: a decoder and one linear head, read or new."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_api.capability import read_traits
from rlhf_api.product import MEMBERS
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.explained import explained, quiet
from rlhf_trainer.models.files import architecture, check_folder
from rlhf_trainer.models.load import forget_padding, torch_dtype

CLASSIFIER = "ForSequenceClassification"


def trunk_of(model: nn.Module) -> Any:
    """The decoder of a sequence classifier, without its head."""
    return getattr(model, str(model.base_model_prefix))


def head_of(model: nn.Module) -> nn.Module:
    """The linear head of a sequence classifier."""
    head = model.score
    if not isinstance(head, nn.Module):
        raise TypeError(f"{type(model).__name__} has no head named `score`")
    return head


def read_classifier(model_folder: Path, source: str | Path, dtype: torch.dtype | str) -> Any:
    """A trained classifier.

    Args:
        model_folder: Its folder.
        source: What messages call it.
        dtype: Of the weights.

    Raises:
        InputError: not a sequence classifier of safetensors.
    """
    from transformers import AutoModelForSequenceClassification

    quiet()
    check_folder(model_folder, source)
    if not architecture(model_folder).endswith(CLASSIFIER):
        raise InputError(
            f"{source}: {architecture(model_folder) or 'no architecture'} in config.json; a reward or cost model is a "
            f"sequence classifier (*{CLASSIFIER}), such as a rewardModel or costModel stage makes"
        )
    with explained(source, "sequence classifier"):
        model = AutoModelForSequenceClassification.from_pretrained(
            str(model_folder),
            dtype=torch_dtype(dtype),
            use_safetensors=True,
            trust_remote_code=False,
            **_labels_by_head(model_folder),
        )
    forget_padding(model)
    return model


def new_classifier(
    model_folder: Path, source: str | Path, dtype: torch.dtype | str, *, labels: int, pad_token_id: int
) -> tuple[Any, bool]:
    """A classifier to be trained, from a language model or from another classifier.

    Args:
        model_folder: The model's.
        source: What messages call it.
        dtype: Of the weights.
        labels: Rows of its head.
        pad_token_id: Written into the configuration: products are padded with it.

    Returns:
        (classifier, whether its head is the model's, which has as many rows; another's is to be drawn).

    Raises:
        InputError: not a decoder that has a sequence classifier.
    """
    from transformers import AutoModelForSequenceClassification

    quiet()
    check_folder(model_folder, source)
    if (model_folder / MEMBERS).is_dir():
        raise InputError(f"{source}: an ensemble of separate trunks cannot be trained further; give one of its members")
    is_classifier = architecture(model_folder).endswith(CLASSIFIER)
    with explained(source, "model for a scorer"):
        model = AutoModelForSequenceClassification.from_pretrained(
            str(model_folder),
            num_labels=labels,
            dtype=torch_dtype(dtype),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
        )
        has_head = is_classifier and _labels_by_head(model_folder).get("num_labels") == labels
    model.config.pad_token_id = pad_token_id
    forget_padding(model)
    return model, has_head


def draw_head(head: nn.Module, seeds: Sequence[int]) -> None:
    """Draw each row of a head from its seed, N(0, 1 / (hidden + 1))."""
    weight = head.weight
    if not isinstance(weight, Tensor) or len(weight) != len(seeds):
        raise ValueError(f"a head of {len(seeds)} rows is needed, found {weight}")
    with torch.no_grad():
        for row, seed in zip(weight, seeds, strict=True):
            drawn = torch.randn(row.shape, generator=torch.Generator().manual_seed(seed))
            row.copy_(drawn / math.sqrt(row.shape[0] + 1))


def _labels_by_head(model_folder: Path) -> dict[str, int]:
    """`num_labels` as the head's shape tells it: not every framework writes it into config.json."""
    traits = read_traits(model_folder)
    return {} if traits is None or traits.labels is None else {"num_labels": traits.labels}
