"""The steps of PPO: answer, score, move the multipliers, learn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer import distributed
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.batches import order
from rlhf_trainer.engine import Engine
from rlhf_trainer.models.save import save_policy
from rlhf_trainer.ppo.guards import Watch, check_finite
from rlhf_trainer.ppo.kl import KlCoefficient
from rlhf_trainer.ppo.metrics import mean_metrics, multiplier_metrics, rollout_metrics, update_metrics
from rlhf_trainer.ppo.models import Models, stream_of
from rlhf_trainer.ppo.multiplier import Multiplier, check_feasible
from rlhf_trainer.ppo.ptx import Ptx
from rlhf_trainer.ppo.rollout import Prompts, Rollout
from rlhf_trainer.ppo.scorer import RolloutScorer, Scored
from rlhf_trainer.ppo.snapshots import Keeper
from rlhf_trainer.ppo.snapshots import steps as snapshot_steps
from rlhf_trainer.ppo.targets import FreshTargets, Objective, StoredTargets, Targets, TargetSource, whitened
from rlhf_trainer.ppo.update import LossScale, Sums, Updater
from rlhf_trainer.rules.reward import RuleReward, RuleScores
from rlhf_trainer.telemetry.metrics import Phase


class PpoTask:
    """PPO, and with costs PPO-Lagrangian."""

    def __init__(
        self,
        context: StageContext,
        spec: Ppo,
        models: Models,
        prompts: Prompts,
        ptx: Ptx | None,
        rules: RuleReward | None = None,
    ) -> None:
        self.total = spec.steps
        self._context = context
        self._spec = spec
        self._models = models
        self._prompts = prompts
        self._ptx = ptx
        self._rules = rules
        self.snapshots = Keeper(context.work, frozenset(snapshot_steps(spec)))
        steps = spec.steps * spec.epochs * spec.mini_batches
        self.policy = Engine(models.policy_module, optimizer=spec, total_steps=steps, context=context, name="policy")
        slower = spec.model_copy(update={"learning_rate": spec.critics.learning_rate})
        self.critics = [
            Engine(critic.module, optimizer=slower, total_steps=steps, context=context, name=f"critic-{critic.name}")
            for critic in models.critics
        ]
        self.engines = {engine.name: engine for engine in (self.policy, *self.critics)}
        self.multipliers = [
            Multiplier(judge.label, cost.limit, spec.lagrange)
            for judge, cost in zip(models.costs, spec.costs, strict=True)
        ]
        self.kl = KlCoefficient(spec.kl)
        self.watch = Watch(spec.guards)
        critics = list(zip(models.critics, self.critics, strict=True))
        self._updater = Updater(spec, self.policy, critics, models.streams)
        self._scorer = RolloutScorer(context, spec, models, self.policy)
        self.counts = {"answers": 0, "tokens.response": 0, "answers.without_eos": 0}

    @property
    def frozen_layers(self) -> int:
        """Layers that scoring runs through; those that models have in common once."""
        return self._models.frozen.layers

    @property
    def one_pass(self) -> bool:
        """Whether the training forward gives the old log-probabilities and values: there is one optimizer step a
        rollout, the two forwards would be the same, and advantages need no moments of the whole rollout."""
        spec = self._spec
        once = spec.epochs == 1 and spec.mini_batches == 1
        return once and not spec.whiten_advantages and not self._models.dropout

    def step(self, step: int) -> dict[str, float]:
        """One rollout and its optimizer steps."""
        rollout = self._sample(step)
        scored, scores = self._scorer.score(rollout)
        reward = scores.reward(self._weights)
        rule_scores = self._grade(rollout)
        if rule_scores is not None and self._spec.rule_based is not None:
            reward = reward + self._spec.rule_based.weight * rule_scores.rewards
        costs = [scores.costs[judge.label] for judge in self._models.costs]
        metrics = rollout_metrics(rollout, scores, reward)
        metrics |= rule_scores.metrics() if rule_scores is not None else {}
        check_finite(metrics)
        for multiplier, cost in zip(self.multipliers, costs, strict=True):
            multiplier.observe(cost)
            multiplier.optimizer_step()
        check_feasible(self.multipliers, reward, costs)
        missing = np.array([0.0 if done else 1.0 for done in rollout.finished])
        objective = Objective(
            reward=reward - self._spec.missing_eos_penalty * missing,
            costs=costs,
            multipliers=[multiplier.value for multiplier in self.multipliers],
            beta=self.kl.value,
        )
        metrics |= multiplier_metrics(self.multipliers)
        metrics |= self._learn(step, rollout, scored, objective, metrics)
        self._snapshot(step + 1)
        self.kl.update(metrics["kl"], len(rollout.answers))
        self.counts["answers"] += len(rollout.answers)
        self.counts["tokens.response"] += rollout.tokens
        self.counts["answers.without_eos"] += int(missing.sum())
        return metrics

    def _snapshot(self, done: int) -> None:
        """Keep the policy of a step that is to be kept. A collective."""
        if done in self.snapshots.due:
            weights = self._models.policy.product(self.policy.state_dict())
            if self._context.rank == 0:
                policy = self._models.policy
                self.snapshots.keep(done, lambda to: save_policy(to, weights, policy.model, self._models.tokenizer))

    def state(self) -> dict[str, Any]:
        """Multipliers with their windows, KL coefficient, guards with their baselines, counts. Prompts and samples are
        functions of the step."""
        return {
            "multipliers": [multiplier.state() for multiplier in self.multipliers],
            "kl": self.kl.state(),
            "watch": self.watch.state(),
            "counts": dict(self.counts),
            **({"rules": self._rules.state()} if self._rules is not None else {}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        for multiplier, saved in zip(self.multipliers, state["multipliers"], strict=True):
            multiplier.load_state(saved)
        self.kl.load_state(state["kl"])
        self.watch.load_state(state["watch"])
        self.counts = dict(state["counts"])
        if self._rules is not None:
            self._rules.load_state(state["rules"])

    @property
    def _weights(self) -> dict[str, float]:
        return {
            judge.label: reward.weight for judge, reward in zip(self._models.rewards, self._spec.rewards, strict=True)
        }

    # -- answers ------------------------------------------------------------------------------------------------------

    def _sample(self, step: int) -> Rollout:
        metrics, context = self._context.metrics, self._context
        with ExitStack() as stack:
            with metrics.phase("sync"):
                stack.enter_context(self.policy.gathered_parameters())
            with metrics.phase("generate") as phase:
                rollout = self._prompts.sample(
                    self._models.policy.model, self._models.tokenizer, step, context.rank, context.world, phase.report
                )
                phase.tokens += rollout.tokens
        return rollout

    def _grade(self, rollout: Rollout) -> RuleScores | None:
        """What rules say of the answers; each text is graded once."""
        if self._rules is None:
            return None
        with self._context.metrics.phase("grade") as phase:
            before = self._rules.tokens
            scores = self._rules.score(rollout.messages, rollout.kinds, rollout.texts)
            phase.tokens += self._rules.tokens - before
        typed = sum(kind is not None for kind in scores.kinds)
        self.counts["answers.ruled"] = self.counts.get("answers.ruled", 0) + typed
        self.counts["answers.graded"] = self._rules.graded
        return scores

    # -- learning -----------------------------------------------------------------------------------------------------

    def _learn(
        self, step: int, rollout: Rollout, scored: list[Scored], objective: Objective, rollout_values: dict[str, float]
    ) -> dict[str, float]:
        with self._context.metrics.phase("update", tokens=sum(rollout.lengths)) as phase:
            for engine in self.engines.values():
                engine.module.train()
            if self.one_pass:
                source, scale = FreshTargets(self._spec, objective), LossScale(rollout.tokens, len(rollout.answers))
                metrics = self._optimize(step, 0, scored, source, scale, rollout_values, phase)
            else:
                metrics = self._in_two_passes(step, rollout, scored, objective, rollout_values, phase)
        metrics["kl_coefficient"] = self.kl.value
        return metrics

    def _optimize(
        self,
        step: int,
        number: int,
        batches: Sequence[Scored],
        source: TargetSource,
        scale: LossScale,
        rollout_values: dict[str, float],
        phase: Phase,
    ) -> dict[str, float]:
        """One optimizer step over micro-batches; `number` counts the steps of a rollout."""
        sums = Sums(len(self._models.streams))
        for batch in phase.each(batches):
            self._updater.learn(batch, source, scale, sums)
        ptx = self._ptx.learn(self.policy, step) if self._ptx is not None and number == 0 else None
        with self._context.metrics.phase("sync"):
            weighed = None if ptx is None or self._spec.ptx is None else (self._spec.ptx.coefficient, ptx)
            metrics = update_metrics(sums.gathered(), scale, self._cost_labels, weighed)
        if "kl" in rollout_values:  # known of the whole rollout, not of a part of it
            metrics["kl"] = rollout_values["kl"]
        if number == 0:
            metrics |= self.watch.derived(rollout_values)
            self.watch.check(rollout_values | metrics)
        else:
            check_finite(metrics)
        metrics["learning_rate"] = self.policy.rate
        metrics["grad_norm"] = self.policy.step()
        for critic, engine in zip(self._models.critics, self.critics, strict=True):
            suffix = "" if critic.name == "shared" else f".{critic.name}"
            metrics[f"critic_grad_norm{suffix}"] = engine.step()
        return metrics

    def _in_two_passes(
        self,
        step: int,
        rollout: Rollout,
        scored: list[Scored],
        objective: Objective,
        rollout_values: dict[str, float],
        phase: Phase,
    ) -> dict[str, float]:
        spec, context = self._spec, self._context
        targets, reference = self._old(scored, objective)
        differences = [(targets[row].old_log_probs - reference[row]).double().sum() for row in sorted(targets)]
        rollout_values = rollout_values | {"kl": float(torch.stack(differences).mean())}
        learned = whitened(targets) if spec.whiten_advantages else targets
        answers = len(rollout.answers)
        size = answers // spec.mini_batches
        optimizer_steps: list[dict[str, float]] = []
        for epoch in range(spec.epochs):
            shuffled = order(answers, (step * spec.epochs + epoch), context.seed + 1)
            for start in range(0, answers, size):
                moved = [multiplier.optimizer_step() for multiplier in self.multipliers] if optimizer_steps else []
                if any(moved):
                    multipliers = [multiplier.value for multiplier in self.multipliers]
                    learned = {row: target.weighed(multipliers) for row, target in targets.items()}
                    learned = whitened(learned) if spec.whiten_advantages else learned
                rows = sorted(shuffled[start : start + size])
                scale = LossScale(sum(len(rollout.answers[row]) for row in rows), len(rows))
                batches = scored if size == answers else self._scorer.again(rollout, rows, reference)
                number, source = len(optimizer_steps), StoredTargets(learned)
                optimizer_steps.append(self._optimize(step, number, batches, source, scale, rollout_values, phase))
        return mean_metrics(optimizer_steps)

    @torch.no_grad()
    def _old(self, scored: list[Scored], objective: Objective) -> tuple[dict[int, Targets], dict[int, Tensor]]:
        """Old log-probabilities and values, hence targets, of all answers, by answer; on every rank."""
        spec, source = self._spec, FreshTargets(self._spec, objective)
        targets: dict[int, Targets] = {}
        reference: dict[int, Tensor] = {}
        with ExitStack() as stack:
            policy = stack.enter_context(self.policy.gathered_parameters())
            critics = [stack.enter_context(engine.gathered_parameters()) for engine in self.critics]
            for module in (policy, *critics):
                module.eval()
            for batch in scored:
                if batch.dummy:
                    continue
                layout = batch.layout
                flat, _ = policy(batch.inputs, layout.predictors, layout.targets, spec.rollout.temperature)
                values: dict[str, Tensor] = {}
                for critic, module, inputs in zip(self._models.critics, critics, batch.critic_inputs, strict=True):
                    heads = module(inputs, layout.predictors)
                    values |= {name: layout.scatter(heads[:, index]) for index, name in enumerate(critic.streams)}
                ordered = [values[stream] for stream in self._models.streams]
                batch_targets = source.targets(batch, layout.scatter(flat), ordered)
                for index, row in enumerate(batch.rows):
                    size = int(layout.mask[index].sum())
                    targets[row] = batch_targets.row(index, size)
                    reference[row] = batch.reference[index, :size].cpu()
            for module in (policy, *critics):
                module.train()
        for part, part_reference in distributed.gather((targets, reference)):
            targets |= part
            reference |= part_reference
        return targets, reference

    @property
    def _cost_labels(self) -> list[str]:
        return [stream_of(judge).removeprefix("cost.") for judge in self._models.costs]
