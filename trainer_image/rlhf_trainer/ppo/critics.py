"""Critics: a value head for the reward and one a cost, on one trunk or on one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_api.product import first_model
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.classifiers import head_of, read_classifier
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.models.moderation import LabelCost, LabelRule
from rlhf_trainer.models.save import save_policy
from rlhf_trainer.models.scorer import ENSEMBLE, Rule
from rlhf_trainer.models.trainable import TrainableModel
from rlhf_trainer.ppo.policy import Inputs

FOLDER = "critics"
HEADS = "heads.safetensors"
NAMES = "heads.json"


class CriticModule(nn.Module):
    """What a critic's engine trains: a decoder and linear heads with bias."""

    def __init__(self, decoder: Any, heads: nn.Linear) -> None:
        super().__init__()
        self.decoder = decoder
        self.heads = heads

    def forward(self, inputs: Inputs, predictors: Tensor) -> Tensor:
        """Values before chosen tokens.

        Args:
            inputs: of the decoder.
            predictors: [N, 2] row and column of the state before each token.

        Returns:
            [N, heads] float32.
        """
        hidden = self.decoder(**inputs, use_cache=False).last_hidden_state
        values: Tensor = self.heads(hidden[predictors[:, 0], predictors[:, 1]]).float()
        return values


@dataclass
class Start:
    """What a critic starts from."""

    model: Any
    """A sequence classifier or a causal language model; its own head is not used."""
    tokenizer: Any
    heads: Mapping[str, tuple[Tensor, Tensor]]
    """(weight [H], bias []) of streams that something is known of; others start at 0."""


@dataclass
class Critic:
    """One trained critic."""

    name: str
    streams: list[str]
    """What its heads predict, in order: `reward`, or a cost's label."""
    trained: TrainableModel
    tokenizer: Any
    module: CriticModule


def start(
    path: Path,
    stream: str,
    weights: Mapping[str, float],
    dtype: str,
    cache: Path,
    *,
    classifier: bool,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Start:
    """Load what a critic starts from.

    Args:
        path: a reward, cost or moderation model, a policy, or the product of an earlier `ppo` stage, whose critics go on.
        stream: the critic's first, by which an earlier stage's critic is found.
        weights: of the model's score in each stream that is that score alone; its own head then predicts it.
        dtype: of the weights.
        cache: for dequantised GGUF files.
        classifier: the model is a sequence classifier, not a language model.
        labels: of a moderation model, those that count as harm in each stream; empty: all.
    """
    earlier = path / FOLDER
    if earlier.is_dir():
        return _earlier(earlier, stream, dtype, cache)
    if not classifier:
        model, tokenizer = load_policy(str(path), dtype, cache)
        return Start(model, tokenizer, {})
    folder = first_model(path)
    model = read_classifier(folder, path, dtype)
    ensemble = (path / ENSEMBLE).is_file()
    label_rule = None if ensemble or not weights else LabelRule.of(path, model)
    rule = Rule.read(path) if ensemble else Rule()
    heads = {name: _as_value(model, rule, weight) for name, weight in weights.items()}
    if label_rule is not None:
        costs = {name: label_rule.cost((labels or {}).get(name, ()), path) for name in weights}
        heads = {name: _as_cost(model, cost) for name, cost in costs.items() if len(cost.chosen) == 1}
    return Start(model, load_tokenizer(folder, cache), heads)


def _earlier(folder: Path, stream: str, dtype: str, cache: Path) -> Start:
    critic = folder / stream if (folder / stream).is_dir() else folder / "shared"
    if not critic.is_dir():
        raise InputError(f"{folder}: no critic of {stream!r}; found {sorted(p.name for p in folder.iterdir())}")
    model, tokenizer = load_policy(str(critic), dtype, cache)
    state = load_file(critic / HEADS)
    streams = orjson.loads((critic / NAMES).read_bytes())
    heads = {name: (state["weight"][index], state["bias"][index]) for index, name in enumerate(streams)}
    return Start(model, tokenizer, heads)


def _as_value(model: Any, rule: Rule, weight: float) -> tuple[Tensor, Tensor]:
    """A trunk's heads as one: weight x mean of the members' (standardised) scores."""
    rows = _rows(model)
    mean, std = torch.zeros(len(rows)), torch.ones(len(rows))
    if rule.kind == "reward" and rule.mean:
        mean, std = torch.tensor(rule.mean[: len(rows)]), torch.tensor(rule.std[: len(rows)])
    return weight * (rows / std[:, None]).mean(0), -weight * (mean / std).mean()


def _as_cost(model: Any, cost: LabelCost) -> tuple[Tensor, Tensor]:
    """The head of a cost of one label: its row less its threshold. The maximum of several is no linear head."""
    return _rows(model)[cost.chosen[0]], torch.tensor(-cost.least[0])


def _rows(model: Any) -> Tensor:
    """[heads, H] float32."""
    rows: Tensor = head_of(model).weight.detach().float()  # type: ignore[operator]  # nn.Linear
    return rows


def make_heads(streams: Sequence[str], initial: Mapping[str, tuple[Tensor, Tensor]], decoder: Any) -> nn.Linear:
    """Linear heads with bias for a decoder's states: known ones as given, others 0."""
    like = next(decoder.parameters())
    heads = nn.Linear(decoder.config.hidden_size, len(streams), dtype=like.dtype, device=like.device)
    with torch.no_grad():
        heads.weight.zero_()
        heads.bias.zero_()
        for index, stream in enumerate(streams):
            if stream in initial:
                weight, bias = initial[stream]
                heads.weight[index], heads.bias[index] = weight, bias
    return heads


def save(folder: Path, critics: Sequence[Critic], weights: Sequence[Mapping[str, Tensor]]) -> None:
    """Write each critic as a model folder with its heads beside: `critics/<name>/`.

    Args:
        folder: of the product.
        critics: all.
        weights: `Engine.state_dict()` of each.
    """
    for critic, state in zip(critics, weights, strict=True):
        target = folder / FOLDER / critic.name
        decoder = {name: value for name, value in state.items() if name.startswith("decoder.")}
        save_policy(target, critic.trained.product(decoder), critic.trained.model, critic.tokenizer)
        heads = {name: state[f"heads.{name}"].detach().cpu().float().contiguous() for name in ("weight", "bias")}
        save_file(heads, target / HEADS)
        (target / NAMES).write_bytes(orjson.dumps(critic.streams))
