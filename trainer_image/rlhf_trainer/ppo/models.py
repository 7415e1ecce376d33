"""All models of a PPO stage: loaded, checked against one another, cut, and laid out so that nothing is held twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rlhf_api.product import first_model
from rlhf_api.stages.ppo import Ppo, Reward
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.chat import prepare_tokenizer
from rlhf_trainer.models.classifiers import CLASSIFIER
from rlhf_trainer.models.dropout import silence
from rlhf_trainer.models.files import architecture
from rlhf_trainer.models.load import check_logits, load_policy
from rlhf_trainer.models.scorer import Kind
from rlhf_trainer.models.trainable import TrainableModel, make_trainable
from rlhf_trainer.models.vocabulary import fit_vocabulary
from rlhf_trainer.ppo import critics as critic_models
from rlhf_trainer.ppo.critics import Critic, CriticModule, make_heads
from rlhf_trainer.ppo.judges import ScoreSource, check_tokenizer, load_judge
from rlhf_trainer.ppo.policy import PolicyModule, frozen_copy, has_dropout
from rlhf_trainer.ppo.shared_trunks import SharedDecoders

REWARD = "reward"
"""Stream of the summed rewards; every cost's label is a stream of its own."""


@dataclass
class Models:
    """What a PPO stage works with."""

    tokenizer: Any
    policy: TrainableModel
    policy_module: PolicyModule
    critics: list[Critic]
    frozen: SharedDecoders
    """Runs `policy` and `critic.<name>` (frozen lower layers), `reference`, and the judges' decoders."""
    reference_head: nn.Module | None
    """None: the reference is the policy with its adapters off."""
    rewards: list[ScoreSource]
    costs: list[ScoreSource]
    gold: ScoreSource | None
    dropout: bool
    notes: list[str]

    @property
    def streams(self) -> list[str]:
        """`reward`, then every cost's label."""
        return [REWARD, *(stream_of(judge) for judge in self.costs)]

    @property
    def readers(self) -> list[Any]:
        """All that read prompts with their answers."""
        return [self.policy.model, *(critic.module.decoder for critic in self.critics), *self.frozen.decoders]

    @property
    def judges(self) -> list[ScoreSource]:
        """All that score answers."""
        return [*self.rewards, *self.costs, *([self.gold] if self.gold is not None else [])]


def stream_of(judge: ScoreSource) -> str:
    """A cost's stream."""
    return f"cost.{judge.label}"


def load(context: StageContext, spec: Ppo) -> Models:
    """Load and lay out all models.

    Raises:
        InputError: one cannot be used, or has another tokenizer than the policy.
    """
    cache = context.storage / "inputs"
    model, tokenizer = load_policy(context.input(spec.policy).path, spec.dtype, cache)
    notes = prepare_tokenizer(tokenizer, context.input(spec.policy).template)
    fit_vocabulary(model, tokenizer)
    silence(model)
    model.to(context.device)
    check_logits(model, f"policy ({spec.policy.key})")
    decoders: dict[str, Any] = {}
    reference_head = _reference(context, spec, model, tokenizer, decoders)
    policy = make_trainable(model, spec, context.file.execution, seed=context.seed, device=context.device)
    notes.extend(policy.notes)
    if policy.trunk is not None:
        decoders["policy"] = policy.trunk.decoder
    judges: dict[str, list[ScoreSource]] = {}
    for name, kind, scorers in _scorers(spec):
        judges[name] = []
        for index, scorer in enumerate(scorers):
            where = f"guards.{name}" if name == "gold" else f"{name}[{index}]"
            penalty = isinstance(scorer, Reward) and scorer.weight < 0  # reward shaping: a cost model serves too
            judge, trunks = load_judge(context, scorer, where, None if penalty else kind, tokenizer, spec.dtype)
            judges[name].append(judge)
            decoders |= trunks
    critics = _critics(context, spec, tokenizer)
    for critic in critics:
        if critic.trained.trunk is not None:
            decoders[f"critic.{critic.name}"] = critic.trained.trunk.decoder
    return Models(
        tokenizer=tokenizer,
        policy=policy,
        policy_module=PolicyModule(policy.decoder, policy.head),
        critics=critics,
        frozen=SharedDecoders(decoders),
        reference_head=reference_head,
        rewards=judges["rewards"],
        costs=judges["costs"],
        gold=next(iter(judges["gold"]), None),
        dropout=has_dropout(policy.decoder) or any(has_dropout(critic.module.decoder) for critic in critics),
        notes=notes,
    )


def _scorers(spec: Ppo) -> Sequence[tuple[str, Kind, Sequence[Any]]]:
    gold = [spec.guards.gold] if spec.guards.gold is not None else []
    return (("rewards", "reward", spec.rewards), ("costs", "cost", spec.costs), ("gold", "reward", gold))


def _reference(
    context: StageContext, spec: Ppo, model: Any, tokenizer: Any, decoders: dict[str, Any]
) -> nn.Module | None:
    if spec.reference is not None:
        path = context.input(spec.reference).path
        where = f"reference ({spec.reference.key})"
        check_tokenizer(path, tokenizer, where, context.storage / "inputs")
        reference, _ = load_policy(path, spec.dtype, context.storage / "inputs")
        fit_vocabulary(reference, tokenizer)
        reference.to(context.device).eval()
        check_logits(reference, where)
        decoders["reference"], head = frozen_copy(reference, None)
    elif spec.lora is not None:
        return None
    else:
        decoders["reference"], head = frozen_copy(model, spec.trainable_layers)
    if head is not model.get_output_embeddings():
        head.requires_grad_(False)
    return head


def _critics(context: StageContext, spec: Ppo, tokenizer: Any) -> list[Critic]:
    streams = [REWARD, *(f"cost.{cost.label}" for cost in spec.costs)]
    if spec.critics.trunk == "shared":
        return [_critic(context, spec, tokenizer, "shared", streams)]
    return [_critic(context, spec, tokenizer, stream.removeprefix("cost."), [stream]) for stream in streams]


def _critic(context: StageContext, spec: Ppo, tokenizer: Any, name: str, streams: list[str]) -> Critic:
    stream, cache = streams[0], context.storage / "inputs"
    path, key = _start(context, spec, stream)
    check_tokenizer(str(path), tokenizer, f"critics.model ({key})", cache)
    weights = {name: weight for name in streams if (weight := _weight(spec, name, key)) is not None}
    labels = {f"cost.{cost.label}": cost.labels for cost in spec.costs}
    initial = critic_models.start(path, stream, weights, spec.dtype, cache, classifier=_classifies(path), labels=labels)
    silence(initial.model)
    layers = spec.critics.trainable_layers or spec.trainable_layers
    trained = make_trainable(
        initial.model, spec, context.file.execution, seed=context.seed + 1, device=context.device, layers=layers
    )
    heads = make_heads(streams, initial.heads, trained.decoder)
    return Critic(name, streams, trained, initial.tokenizer, CriticModule(trained.decoder, heads))


def _start(context: StageContext, spec: Ppo, stream: str) -> tuple[Path, str]:
    """What a critic starts from: as told, else the stream's own model, else the first reward model, else the policy."""
    if spec.critics.model is not None:
        return Path(context.input(spec.critics.model).path), spec.critics.model.key
    stream_costs = [cost for cost in spec.costs if f"cost.{cost.label}" == stream and cost.function is None]
    models = [reward for reward in spec.rewards if reward.function is None]
    reference = next(iter([*stream_costs, *models]), spec.policy)
    return Path(context.input(reference).path), reference.key


def _weight(spec: Ppo, stream: str, key: str) -> float | None:
    """Weight of a model's score in a stream, where the stream is that score and no other."""
    if stream == REWARD:
        return spec.rewards[0].weight if [reward.key for reward in spec.rewards] == [key] else None
    return 1.0 if any(cost.key == key and f"cost.{cost.label}" == stream for cost in spec.costs) else None


def _classifies(path: Path) -> bool:
    folder = first_model(path)
    return (folder / "config.json").is_file() and architecture(folder).endswith(CLASSIFIER)
