"""What judges an answer in PPO: reward and cost models, user functions, the gold score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rlhf_api.fields import CostScorer, Scorer
from rlhf_api.product import first_model
from rlhf_trainer import functions
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.chat import same_tokenizer
from rlhf_trainer.data.rows import Messages
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.classifiers import head_of, trunk_of
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.moderation import LabelCost
from rlhf_trainer.models.scorer import Kind, Rule, last, load_scorer

Values = npt.NDArray[np.float64]


@dataclass
class ScoreSource:
    """One reward, cost or gold score: a model's, or a function's."""

    where: str
    """Field of the spec: `rewards[0]`."""
    label: str
    function: functions.UserFunction | None = None
    rule: Rule | LabelCost | None = None
    heads: list[nn.Module] = field(default_factory=list)

    def decoders(self) -> list[str]:
        """Names of its decoders among the frozen ones: one a head."""
        return [f"{self.where}.{index}" for index in range(len(self.heads))]

    @torch.no_grad()
    def score(self, hidden: Mapping[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """A model's scores.

        Args:
            hidden: [B, L, H] by decoder.
            mask: [B, L] attention mask: the score sits at its last position, the answer's last token.

        Returns:
            [B] score, [B] disagreement of its members, float32.
        """
        if self.rule is None:
            raise ValueError(f"{self.where} is a function")
        names = self.decoders()
        scores = [head(last(hidden[name], mask)).float() for name, head in zip(names, self.heads, strict=True)]
        return self.rule.combined(torch.cat(scores, dim=-1).T)


def load_judge(
    context: StageContext, scorer: Scorer, where: str, kind: Kind | None, tokenizer: Any, dtype: str
) -> tuple[ScoreSource, dict[str, Any]]:
    """A judge and its decoders, to be run with the other frozen ones.

    Raises:
        InputError: no such function or model, or the model reads other token ids than the policy writes.
    """
    if scorer.function is not None:
        function = functions.load(scorer.function, Path(context.file.directories.job))
        return ScoreSource(where, scorer.label, function=function), {}
    path = context.input(scorer).path
    check_tokenizer(path, tokenizer, f"{where} ({scorer.key})", context.storage / "inputs")
    labels = scorer.labels if isinstance(scorer, CostScorer) else ()
    model = load_scorer(path, dtype, kind=kind, cache=context.storage / "inputs", labels=labels).to(context.device)
    judge = ScoreSource(where, scorer.label, rule=model.rule, heads=[head_of(member) for member in model.models])
    decoders = {name: trunk_of(member) for name, member in zip(judge.decoders(), model.models, strict=True)}
    return judge, decoders


def check_tokenizer(path: str, tokenizer: Any, where: str, cache: Path) -> None:
    """Refuse a model that means other tokens by the same ids.

    Raises:
        InputError: says in what the tokenizers differ.
    """
    problem = same_tokenizer(tokenizer, load_tokenizer(first_model(Path(path)), cache))
    if problem is not None:
        raise InputError(
            f"{where}: its tokenizer is not the policy's: {problem}. Answers are scored as the ids they were sampled "
            "as; train it from the same model as the policy"
        )


@dataclass(frozen=True)
class RolloutScores:
    """Raw scores of a rollout, in the order of its answers, equal on all ranks."""

    rewards: Mapping[str, Values]
    costs: Mapping[str, Values]
    disagreement: Mapping[str, Values]
    """Of judges with several members: [N]."""
    gold: Values | None

    def reward(self, weights: Mapping[str, float]) -> Values:
        """[N] sum of weight x score."""
        total = np.zeros_like(next(iter(self.rewards.values())))
        for label, values in self.rewards.items():
            total += weights[label] * values
        return total


def call(judge: ScoreSource, messages: Sequence[Messages], texts: Sequence[str]) -> list[float]:
    """A function's scores of some answers."""
    if judge.function is None:
        raise ValueError(f"{judge.where} is a model")
    return judge.function(messages, texts)
