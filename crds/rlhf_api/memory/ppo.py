"""Memory of `ppo`: loading, sampling, updating."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_api.fields import Scorer
from rlhf_api.memory.facts import ModelFacts
from rlhf_api.memory.lineage import Origin
from rlhf_api.memory.terms import CHUNK_LOGITS, GPU_TOKENS, Moment, Terms
from rlhf_api.stages import Ppo

PPO_TOKENS = 1024
"""Tokens of a forward in `ppo` on a CPU, where the execution says nothing."""


def moments(terms: Terms, spec: Ppo) -> list[Moment]:
    """Loading, sampling and updating."""
    model, start = terms.model(spec.policy)
    size = terms.size(spec.dtype)
    layers = spec.trainable_layers
    others = _models(terms, spec, model, start)
    policy = {"weights of the policy": size * model.parameters}
    loading = policy | {f"weights of the {name}": size * total for name, (total, _) in others.items()}
    resident = {"weights of the policy": size * _kept(terms, model, layers)}
    resident |= {f"weights of the {name}": size * unshared for name, (_, unshared) in others.items()}
    if terms.device == "cpu":
        # Weights are mapped from their files, and a file stays mapped whole while one tensor of it is in use.
        resident = {name: max(bytes_, loading[name]) for name, bytes_ in resident.items()}
    critic, critic_layers = _critic(terms, spec)
    count = 1 if spec.critics.trunk == "shared" else 1 + len(spec.costs)
    states = terms.optimizer(terms.trained(model, spec, layers), size)
    critic_states = terms.optimizer(terms.trained(critic, spec, critic_layers), size)
    states = {name: states[name] + count * critic_states[name] for name in states}
    prompt = terms.longest(spec.prompts, spec.rollout.max_prompt_tokens)
    row = prompt + spec.rollout.max_new_tokens
    answers = -(-spec.rollout.prompts * spec.rollout.samples // terms.ranks)
    budget = terms.execution.micro_batch_tokens or (GPU_TOKENS if terms.device == "cuda" else PPO_TOKENS)
    tokens = max(row, min(budget, row * answers))
    gathered = size * model.parameters if terms.execution.zero == 3 else 0
    sampling = {
        "keys and values": 2 * size * answers * row * model.layers * model.key,
        "logits": 3 * 4 * answers * model.vocabulary,
        "gathered weights": gathered,
    }
    cut = (layers is not None) + count * (critic_layers is not None)
    remembered = {"states of a rollout": cut * size * answers * row * model.hidden}
    if spec.ptx is not None:
        width = terms.longest(spec.ptx.data, spec.ptx.max_length)
        batch = width * -(-(spec.ptx.batch_size or answers) // terms.ranks)
        tokens = max(tokens, min(budget, batch), width)
    updating = remembered | {
        "activations": terms.activations(model, layers or model.layers, tokens, size)
        + count * terms.activations(critic, critic_layers or critic.layers, tokens, size),
        "logits": 3 * 4 * CHUNK_LOGITS,
    }
    return [loading, resident | states | sampling, resident | states | updating]


def _kept(terms: Terms, model: ModelFacts, layers: int | None) -> int:
    """Weights of the policy between steps: under ZeRO 3 what is trained is sharded."""
    return model.parameters if layers is not None else terms.sharded(model.parameters)


def _critic(terms: Terms, spec: Ppo) -> tuple[ModelFacts, int | None]:
    reference = spec.critics.model or next((reward for reward in spec.rewards if reward.function is None), spec.policy)
    model, _ = terms.model(reference)
    return model, spec.critics.trainable_layers or spec.trainable_layers


def _models(terms: Terms, spec: Ppo, policy: ModelFacts, start: Origin) -> dict[str, tuple[int, int]]:
    """(weights whole, weights of its own) of every other model.

    Layers that come unchanged from where the policy came from are held once, with the policy's; so are those
    that judges and critics have in common with one another below where they were trained.
    """
    frozen_policy = policy.layers - spec.trainable_layers if spec.trainable_layers is not None else 0
    weights: dict[str, tuple[int, int]] = {}
    if spec.reference is not None:
        model, where = terms.model(spec.reference)
        weights["reference"] = (model.parameters, _own(model, where, start, frozen_policy))
    elif spec.lora is None:
        unshared = policy.parameters if spec.trainable_layers is None else spec.trainable_layers * policy.layer
        weights["reference"] = (unshared, unshared)
    gold = [spec.guards.gold] if spec.guards.gold is not None else []
    judges: dict[str, Sequence[Scorer]] = {"rewards": spec.rewards, "costs": spec.costs, "gold": gold}
    for name, scorers in judges.items():
        total = unshared = 0
        for scorer in scorers:
            if scorer.function is not None:
                continue
            model, where = terms.model(scorer)
            total += where.copies * model.parameters
            unshared += where.copies * _own(model, where, start, frozen_policy)
        weights[name] = (total, unshared)
    critic, layers = _critic(terms, spec)
    count = 1 if spec.critics.trunk == "shared" else 1 + len(spec.costs)
    if layers is None:
        unshared = terms.sharded(critic.parameters)
    else:
        shared = min(critic.layers - layers, frozen_policy)
        unshared = (critic.layers - shared) * critic.layer
    weights["critics"] = (count * critic.parameters, count * unshared)
    if spec.rule_based is not None:
        grader, _ = terms.model(terms.grader(spec.rule_based))
        weights["grader"] = (grader.parameters, grader.parameters)
    return weights


def _own(model: ModelFacts, where: Origin, start: Origin, frozen_policy: int) -> int:
    """Weights that a frozen model does not share with the policy."""
    if where.input != start.input or where.trained is None or start.trained is None:
        return model.parameters
    shared = min(model.layers - max(where.trained, start.trained), frozen_policy)
    return (model.layers - shared) * model.layer + (0 if shared else model.embedding)
