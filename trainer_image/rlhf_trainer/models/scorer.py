"""Reward and cost models: a trunk with one head a member, or a model a member, and how the members become one score."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf_api.bounded import read_object
from rlhf_api.product import MEMBERS
from rlhf_trainer.data.collate import positions
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.classifiers import draw_head, head_of, new_classifier, read_classifier, trunk_of
from rlhf_trainer.models.files import folder
from rlhf_trainer.models.moderation import MODERATION, LabelCost, LabelRule

ENSEMBLE = "ensemble.json"

Kind = Literal["reward", "cost"]


@dataclass(frozen=True)
class Rule:
    """How the scores of several members become one; the content of `ensemble.json`.

    Rewards are standardised a member (score - mean) / std, then combined downwards; costs are never shifted, since
    their sign is their meaning, and combined upwards.
    """

    kind: Kind = "reward"
    trunk: Literal["shared", "separate"] = "shared"
    members: int = 1
    combine: Literal["mean", "conservative", "deviation"] = "conservative"
    k: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    version: str = field(default="1")

    def standardise(self, scores: Tensor) -> Tensor:
        """[members, B] scores, each member of a reward shifted and scaled; costs and single members as they are."""
        if self.kind == "cost" or not self.mean:
            return scores
        mean = torch.tensor(self.mean, dtype=scores.dtype, device=scores.device)[:, None]
        std = torch.tensor(self.std, dtype=scores.dtype, device=scores.device)[:, None]
        return (scores - mean) / std

    def combined(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """One score an answer, and how far the members disagree.

        Args:
            scores: [members, B], as the members gave them.

        Returns:
            ([B] combined score, [B] standard deviation over the members after standardisation; 0 for one member).
        """
        scores = self.standardise(scores)
        if len(scores) == 1 or not scores.shape[1]:
            return scores[0], torch.zeros_like(scores[0])
        std = scores.std(0, correction=0)
        if self.combine == "mean":
            return scores.mean(0), std
        sign = 1.0 if self.kind == "cost" else -1.0
        if self.combine == "deviation":
            return scores.mean(0) + sign * self.k * std, std
        return (scores.amax(0) if self.kind == "cost" else scores.amin(0)), std

    def write(self, target: Path) -> None:
        """Write `ensemble.json` into a folder."""
        (target / ENSEMBLE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, source: Path) -> Rule:
        """Read `ensemble.json`.

        Raises:
            InputError: of another version, or not consistent.
        """
        file = source / ENSEMBLE
        try:
            fields = read_object(file)
            rule = cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file}: not an ensemble description of this version: {error}") from error
        if rule.version != "1" or len(rule.mean) not in (0, rule.members) or len(rule.std) != len(rule.mean):
            raise InputError(f"{file}: version {rule.version} with {rule.members} members does not fit its own means")
        if not all(math.isfinite(value) and value > 0 for value in rule.std):
            raise InputError(f"{file}: standard deviations must be above 0, found {list(rule.std)}")
        return rule


class ScorerModel(nn.Module):
    """A reward or cost model: scores whole token sequences at their mask's last position.

    Attributes:
        models: One `AutoModelForSequenceClassification` with a label a member (shared trunk), or one a member.
        rule: How members, or the labels of a moderation model, are combined.
    """

    def __init__(self, models: Sequence[nn.Module], rule: Rule | LabelCost) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.rule = rule

    @property
    def trunk(self) -> Any:
        """The decoder of the first member (no head): where critics start."""
        return trunk_of(self.models[0])

    @property
    def config(self) -> Any:
        """Configuration of the first member."""
        return self.models[0].config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The members' scores; see `scores`."""
        return self.scores(input_ids, attention_mask)

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores of whole sequences, EOS included.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], padded left or right.

        Returns:
            [members, B] float32, neither shifted nor combined.
        """
        position_ids = positions(attention_mask)
        member_scores = []
        for model in self.models:
            hidden = trunk_of(model)(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
            ).last_hidden_state
            member_scores.append(head_of(model)(last(hidden, attention_mask)).float())
        return torch.cat(member_scores, dim=-1).T

    def combined(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """([B] combined score, [B] standard deviation over the members): `Rule.combined` of `scores`."""
        return self.rule.combined(self.scores(input_ids, attention_mask))


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    """[B, H] of [B, T, H]: at the last position of each row's mask [B, T]."""
    steps = torch.arange(mask.shape[-1], device=mask.device)
    where = (mask.long() * steps).argmax(-1)
    return hidden[torch.arange(len(hidden), device=hidden.device), where]


def load_scorer(
    path: str | Path,
    dtype: torch.dtype | str,
    *,
    kind: Kind | None = None,
    cache: Path | None = None,
    labels: Sequence[str] = (),
) -> ScorerModel:
    """A trained reward or cost model: one of this project's products, or any sequence classifier of safetensors; as cost
    also a moderation model.

    Args:
        path: The folder.
        dtype: Of the weights.
        kind: What it is used as; needed where `ensemble.json` does not say (reward by default).
        cache: As for `load_policy`.
        labels: Of a moderation model, those that are harmful; empty: all.

    Returns:
        The scorer, in evaluation mode.

    Raises:
        InputError: not a sequence classifier, or its files do not fit each other.
    """
    with folder(path, cache) as model_folder:
        members = model_folder / MEMBERS
        rule = Rule.read(model_folder) if members.is_dir() or (model_folder / ENSEMBLE).is_file() else Rule()
        folders = [members / str(index) for index in range(rule.members)] if members.is_dir() else [model_folder]
        models = [read_classifier(member, path, dtype) for member in folders]
        label_rule = LabelRule.of(model_folder, models[0]) if not (model_folder / ENSEMBLE).is_file() else None
    if label_rule is not None and kind == "cost":
        return ScorerModel(models, label_rule.cost(labels, path)).eval()
    if label_rule is not None and (model_folder / MODERATION).is_file():
        raise InputError(
            f"{path}: found a moderation model ({', '.join(label_rule.labels)}); expected a reward model (put it under "
            "costs: its labels say what is harmful)"
        )
    if labels:
        raise InputError(f"{path}: found labels {', '.join(labels)}; expected a moderation model, which has labels")
    heads = sum(model.config.num_labels for model in models)
    if not (Path(path) / ENSEMBLE).is_file():
        if heads != 1:
            raise InputError(
                f"{path}: found a classifier of {heads} labels; expected one label, whose logit is the score "
                "(which of them is meant, and its sign, is not guessed: save a head of that row alone)"
            )
        rule = Rule(kind=kind or "reward", combine="mean")
    elif heads != rule.members or kind not in (None, rule.kind):
        raise InputError(
            f"{path}: {ENSEMBLE} says {rule.members} members of kind {rule.kind}; "
            f"found {heads} heads, used as {kind or rule.kind}"
        )
    return ScorerModel(models, rule).eval()


def new_scorer(
    path: str | Path,
    dtype: torch.dtype | str,
    *,
    rule: Rule,
    seeds: Sequence[int],
    pad_token_id: int,
    cache: Path | None = None,
) -> ScorerModel:
    """A scorer to be trained, from a language model or from another scorer.

    Args:
        path: Folder or GGUF file. A sequence classifier with as many labels as `rule` has members keeps its head.
        dtype: Of the weights.
        rule: Kind, members and trunk.
        seeds: One a member: draws its head, N(0, 1 / (hidden + 1)).
        pad_token_id: Written into the configuration: products are padded with it.
        cache: As for `load_policy`.

    Raises:
        InputError: not a decoder that has a sequence classifier.
    """
    separate = rule.trunk == "separate"
    models = []
    with folder(path, cache) as model_folder:
        labels = 1 if separate else rule.members
        for index in range(rule.members if separate else 1):
            model, has_head = new_classifier(model_folder, path, dtype, labels=labels, pad_token_id=pad_token_id)
            if not has_head:
                draw_head(head_of(model), seeds[index : index + 1] if separate else seeds)
            models.append(model)
    return ScorerModel(models, rule)
