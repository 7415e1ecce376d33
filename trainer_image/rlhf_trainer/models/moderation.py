"""Moderation models: a sequence classifier with a sigmoid a label, and the thresholds that make its labels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rlhf_api.bounded import read_object
from rlhf_api.error_messages import nearest
from rlhf_trainer.exits import InputError
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

    @classmethod
    def of(cls, source: Path, classifier: Any) -> LabelRule | None:
        """The rule of a folder: its `moderation.json`, or of any other multi-label classifier one half for each label; None
        for a classifier of another kind.

        Raises:
            InputError: `moderation.json` is of another version, or does not fit the classifier.
        """
        names = tuple(str(classifier.config.id2label[index]) for index in range(classifier.config.num_labels))
        file = source / MODERATION
        if not file.is_file():
            several = classifier.config.problem_type == "multi_label_classification"
            return cls(names, (0.5,) * len(names)) if several else None
        try:
            fields = read_object(file)
            rule = cls(**{**fields, "labels": tuple(fields["labels"]), "thresholds": tuple(fields["thresholds"])})
            usable = all(0 < threshold < 1 for threshold in rule.thresholds)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file}: not a description of labels of this version: {error}") from error
        if rule.version != "1" or rule.labels != names or len(rule.thresholds) != len(names) or not usable:
            raise InputError(
                f"{file}: found version {rule.version} with labels {', '.join(map(str, rule.labels))} and thresholds "
                f"{rule.thresholds}; expected version 1, the labels of config.json ({', '.join(names)}) and a threshold "
                "between 0 and 1 for each"
            )
        return rule

    def cost(self, labels: Sequence[str], source: str | Path) -> LabelCost:
        """The cost that some of the labels make; of none given, all.

        Args:
            labels: Those that are harmful.
            source: What messages call the model.

        Raises:
            InputError: there is no such label.
        """
        for label in labels:
            if label not in self.labels:
                near = nearest(label, self.labels)
                hint = f" (did you mean {near}?)" if near else ""
                raise InputError(f"{source}: found label {label!r}; expected one of {', '.join(self.labels)}{hint}")
        chosen = [index for index, label in enumerate(self.labels) if not labels or label in labels]
        return LabelCost(tuple(chosen), tuple(logit(self.thresholds[index]) for index in chosen))


@dataclass(frozen=True)
class LabelCost:
    """How the logits of a moderation model become one cost: the largest distance of a label above its threshold, so that
    the cost is above 0 where any of the labels is true of the answer."""

    chosen: tuple[int, ...]
    """Rows of the head."""
    least: tuple[float, ...]
    """Logit from which each is true."""
    kind: Literal["cost"] = "cost"
    members: int = 1

    def combined(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """([B] cost, [B] zeros) of logits [labels, B]: one model, which disagrees with no other.

        A probability of exactly the threshold is true of an answer and its cost is 0, which is not harmful: of floating
        point numbers that is nobody's case.
        """
        least = torch.tensor(self.least, dtype=scores.dtype, device=scores.device)[:, None]
        above = scores[list(self.chosen)] - least
        cost = above.amax(0)
        return cost, torch.zeros_like(cost)


def logit(probability: float) -> float:
    """log(p / (1 - p)) of 0 < p < 1."""
    return math.log(probability) - math.log1p(-probability)


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
