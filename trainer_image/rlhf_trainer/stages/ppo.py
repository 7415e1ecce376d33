"""`ppo`: PPO, and with costs PPO-Lagrangian."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer import functions
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.chat import Encoded, encode_conversation, encode_prompt
from rlhf_trainer.data.checks import Encodings
from rlhf_trainer.data.load import load_conversations, load_prompts
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.readers import readers
from rlhf_trainer.inspection.templates import checks_of
from rlhf_trainer.loop import train
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.lengths import prompt_room
from rlhf_trainer.models.save import save_policy
from rlhf_trainer.ppo import critics as critic_models
from rlhf_trainer.ppo.models import Models, load
from rlhf_trainer.ppo.ptx import Ptx
from rlhf_trainer.ppo.rollout import Prompts
from rlhf_trainer.ppo.task import PpoTask
from rlhf_trainer.rules.reward import RuleReward, load_rules

STATES = "ptx-states"
LAST_STEPS = 10
"""Steps whose mean a product's metrics are."""


def run(context: StageContext) -> None:
    """Train and publish a policy and its critics.

    Raises:
        InputError: data, models or functions cannot be used.
        GuardTripped: a guard, an unreachable limit, or NaN.
    """
    spec = context.spec(Ppo)
    models = load(context, spec)
    prompts, kinds, counts = _prompts(context, spec, models)
    rules = _rules(context, spec, kinds)
    ptx = _ptx(context, spec, models, counts)
    task = PpoTask(context, spec, models, prompts, ptx, rules)
    train(context, task)
    _publish(context, spec, task, models, counts)


def _prompts(context: StageContext, spec: Ppo, models: Models) -> tuple[Prompts, list[str | None], dict[str, int]]:
    encodings = Encodings(lambda row: encode_prompt(models.tokenizer, row.messages, tools=row.tools))
    graders = (reader for reader in readers(spec, "prompts") if reader.reading == "grader")
    rows, read = load_prompts(context, spec.prompts, encodings, *checks_of(context, graders))
    longest = prompt_room(models.readers, spec.rollout.max_prompt_tokens, spec.rollout.max_new_tokens)
    full_prompts = [encodings[row] for row in rows]
    counts = read.as_dict("prompts")
    counts["prompts.cut"] = sum(len(ids) > longest for ids in full_prompts)
    encoded = [ids[-longest:] for ids in full_prompts]
    kinds = [row.response_type for row in rows]
    return Prompts([row.messages for row in rows], encoded, spec.rollout, context.seed, kinds), kinds, counts


def _rules(context: StageContext, spec: Ppo, kinds: list[str | None]) -> RuleReward | None:
    """The rule-based rewards, fit for these prompts and beside these rewards."""
    if spec.rule_based is None:
        return None
    rules = load_rules(context, spec.rule_based, "rules", spec.dtype)
    rules.check(kinds, "prompts")
    if not spec.rule_based.any_reward:
        folder = Path(context.file.directories.job)
        digests = [
            functions.source_digest(reward.function, folder) if reward.function else context.input(reward).digest
            for reward in spec.rewards
        ]
        alone = [
            digest if reward.weight == 1 else f"{digest[:12]} x {reward.weight:g}"
            for digest, reward in zip(digests, spec.rewards, strict=True)
        ]
        rules.weights.check_reward(alone, "rules")
    return rules


def _ptx(context: StageContext, spec: Ppo, models: Models, counts: dict[str, int]) -> Ptx | None:
    if spec.ptx is None:
        return None
    most = spec.ptx.max_length
    encodings = Encodings(
        lambda row: encode_conversation(models.tokenizer, row.messages, most, row.prompt_turns, row.tools)
    )
    conversations, read = load_conversations(context, spec.ptx.data, encodings)
    encoded = [encodings[row] for row in conversations]
    rows: list[Encoded] = [row for row in encoded if any(row.mask[1:])]
    if not rows:
        raise InputError("ptx.data: no conversation has a token to learn within ptx.maxLength; raise it")
    counts |= read.as_dict("ptx") | {"ptx.without_answer": len(encoded) - len(rows)}
    boundary = FrozenTrunkInputs(models.policy.trunk, context.device, models.tokenizer.pad_token_id)
    budget = context.micro_batch_tokens
    size = spec.ptx.batch_size or spec.rollout.prompts * spec.rollout.samples
    if spec.steps * size > len(rows):
        key = f"{context.input(spec.policy).digest}-{spec.trainable_layers}"
        boundary.cache_hidden_states(rows, context.work / f"{STATES}.bin", key, dtype=models.policy.model.dtype)
    return Ptx(context, rows, size, spec.ptx.coefficient, boundary, budget)


def _publish(context: StageContext, spec: Ppo, task: PpoTask, models: Models, counts: dict[str, int]) -> None:
    weights = models.policy.product(task.policy.state_dict())
    critics = [engine.state_dict() for engine in task.critics]

    def build(folder: Path) -> Facts:
        save_policy(folder, weights, models.policy.model, models.tokenizer)
        critic_models.save(folder, models.critics, critics)
        task.snapshots.give(folder)
        metrics, notes = last_steps(context.metrics.path), list(models.notes)
        metrics["steps"] = spec.steps
        for name, warnings in task.watch.warnings.items():
            if warnings:
                notes.append(f"guards.{name} was beyond its bound in {warnings} steps; its action is warn")
        return Facts({**counts, **task.counts, "steps": spec.steps}, metrics, notes)

    context.publish(build)
    if context.rank == 0:
        task.snapshots.drop()
        for file in context.work.glob(f"{STATES}.*"):
            file.unlink(missing_ok=True)


def last_steps(path: Path) -> dict[str, Any]:
    """Means of every metric over the last steps of metrics.jsonl."""
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()][-LAST_STEPS:]
    means: dict[str, Any] = {}
    for name in dict.fromkeys(name for line in lines for name in line):  # not every step has every response type
        values = [line[name] for line in lines if isinstance(line.get(name), int | float)]
        if name != "step" and values:
            means[name] = sum(values) / len(values)
    return means
