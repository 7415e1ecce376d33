"""A micro-batch's gradients against a plain implementation: row by row, token by token, one loss, one backward."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config
from transformers import LlamaForCausalLM, LlamaModel

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer.generation.logprobs import lay_out
from rlhf_trainer.ppo.critics import Critic, CriticModule, make_heads
from rlhf_trainer.ppo.policy import PolicyModule
from rlhf_trainer.ppo.scorer import Scored
from rlhf_trainer.ppo.targets import FreshTargets, Objective, StoredTargets, Targets, whitened
from rlhf_trainer.ppo.update import LossScale, Sums, Updater

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12]]
ANSWERS = [[13, 14, 2], [15, 16, 17, 18, 2], [2]]
REWARD, COST = np.array([1.0, -0.5, 2.0]), np.array([0.3, 1.5, -1.0])
BETA, LAMBDA, TEMPERATURE = 0.3, 0.7, 0.8


class PlainEngine:
    """An engine without DeepSpeed."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


def spec(**fields: Any) -> Ppo:
    return Ppo.model_validate(
        {
            "policy": {"stage": "sft"},
            "rewards": [{"stage": "rm"}],
            "costs": [{"stage": "cm"}],
            "prompts": [{"input": "p"}],
            "rollout": {"temperature": TEMPERATURE, "maxNewTokens": 7},
            **fields,
        }
    )


def models() -> tuple[LlamaForCausalLM, LlamaForCausalLM, CriticModule]:
    torch.manual_seed(0)
    policy = LlamaForCausalLM(tiny_config(20)).eval()
    reference = LlamaForCausalLM(tiny_config(20)).eval()
    decoder = LlamaModel(tiny_config(20)).eval()
    scorer_heads = {"reward": (torch.randn(32), torch.tensor(0.1)), "cost.cm": (torch.randn(32), torch.tensor(-0.2))}
    return policy, reference, CriticModule(decoder, make_heads(["reward", "cost.cm"], scorer_heads, decoder))


def plain(policy: Any, reference: Any, critic: CriticModule, normalization: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(policy's loss, critics' loss), by the definitions."""
    total_policy, total_value = torch.zeros(()), torch.zeros(())
    tokens = sum(map(len, ANSWERS))
    for prompt, answer, reward, cost in zip(PROMPTS, ANSWERS, REWARD, COST, strict=True):
        ids, size = torch.tensor([prompt + answer]), len(answer)
        span = slice(len(prompt) - 1, len(prompt) - 1 + size)
        chosen = torch.tensor(answer)[:, None]
        log_probs = torch.log_softmax(policy(ids).logits[0, span] / TEMPERATURE, -1).gather(1, chosen)[:, 0]
        with torch.no_grad():
            ref_logps = torch.log_softmax(reference(ids).logits[0, span] / TEMPERATURE, -1).gather(1, chosen)[:, 0]
        values = critic.heads(critic.decoder(ids).last_hidden_state[0, span])
        k = (log_probs - ref_logps).tolist()
        advantages = []
        for stream, (score, sign) in enumerate(((reward, -1), (cost, +1))):
            v = [*values[:, stream].tolist(), 0.0]
            r = [sign * BETA * k[t] + (score if t == size - 1 else 0.0) for t in range(size)]
            a = [0.0] * (size + 1)
            for t in reversed(range(size)):
                a[t] = r[t] + v[t + 1] - v[t] + 0.95 * a[t + 1]
            advantages.append(a[:size])
            for t in range(size):
                weight = {"tokens": 1 / tokens, "sequences": 1 / (3 * size), "constant": 1 / (3 * 7)}[normalization]
                total_value = total_value + weight * 0.5 * (values[t, stream] - (a[t] + v[t])) ** 2
        for t in range(size):
            weight = {"tokens": 1 / tokens, "sequences": 1 / (3 * size), "constant": 1 / (3 * 7)}[normalization]
            advantage = (advantages[0][t] - LAMBDA * advantages[1][t]) / (1 + LAMBDA)
            total_policy = total_policy - weight * advantage * torch.exp(log_probs[t] - log_probs[t].detach())
    return total_policy, total_value


def learn(
    ppo: Ppo, policy: Any, reference: Any, critic: CriticModule, batches: list[list[int]]
) -> tuple[Sums, list[float]]:
    engines = PlainEngine(PolicyModule(policy.model, policy.lm_head)), PlainEngine(critic)
    streams = ["reward", "cost.cm"]
    shared_critic = Critic("shared", streams, None, None, critic)  # type: ignore[arg-type]
    updater = Updater(ppo, engines[0], [(shared_critic, engines[1])], streams)  # type: ignore[arg-type,list-item]
    objective = Objective(REWARD, [COST], [LAMBDA], BETA)
    sums = Sums(2)
    for rows in batches:
        layout = lay_out([PROMPTS[i] for i in rows], [ANSWERS[i] for i in rows], 0, torch.device("cpu"))
        with torch.no_grad():
            logits = reference(layout.input_ids, attention_mask=layout.attention_mask).logits / TEMPERATURE
            log_probs = torch.log_softmax(logits, -1)[layout.predictors[:, 0], layout.predictors[:, 1]]
            reference_log_probs = layout.scatter(log_probs.gather(1, layout.targets[:, None])[:, 0])
        inputs = {
            "input_ids": layout.input_ids,
            "attention_mask": layout.attention_mask,
            "position_ids": layout.position_ids,
        }
        batch = Scored(tuple(rows), False, layout, reference_log_probs, inputs, [inputs])
        updater.learn(batch, FreshTargets(ppo, objective), LossScale(9, 3), sums)
    return sums.gathered(), [float(objective.beta)]


@pytest.mark.parametrize("normalization", ["tokens", "sequences", "constant"])
@pytest.mark.parametrize("batches", [[[0, 1, 2]], [[1], [2, 0]], [[0], [1], [2]]])
def test_gradients_and_losses_are_the_definitions_however_rows_are_batched(
    normalization: str, batches: list[list[int]]
) -> None:
    policy, reference, critic = models()
    expected_policy, expected_critic = copy.deepcopy(policy), copy.deepcopy(critic)
    policy_loss, value_loss = plain(expected_policy, reference, expected_critic, normalization)
    (policy_loss + value_loss).backward()
    sums, _ = learn(spec(lossNormalization=normalization), policy, reference, critic, batches)
    assert sums.policy_loss == pytest.approx(policy_loss.item(), rel=1e-4, abs=1e-6)
    assert sum(sums.value_losses) == pytest.approx(value_loss.item(), rel=1e-4)
    assert sums.tokens == 9
    for module, plain_module in ((policy, expected_policy), (critic, expected_critic)):
        for (name, weight), (_, expected) in zip(
            module.named_parameters(), plain_module.named_parameters(), strict=True
        ):
            torch.testing.assert_close(weight.grad, expected.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_a_dummy_moves_nothing_and_counts_nothing() -> None:
    policy, _, critic = models()
    ppo = spec()
    engines = PlainEngine(PolicyModule(policy.model, policy.lm_head)), PlainEngine(critic)
    streams = ["reward", "cost.cm"]
    shared_critic = Critic("shared", streams, None, None, critic)  # type: ignore[arg-type]
    updater = Updater(ppo, engines[0], [(shared_critic, engines[1])], streams)  # type: ignore[arg-type,list-item]
    layout = lay_out(PROMPTS, ANSWERS, 0, torch.device("cpu"))
    inputs = {name: getattr(layout, name) for name in ("input_ids", "attention_mask", "position_ids")}
    objective, reference_log_probs = Objective(REWARD, [COST], [LAMBDA], BETA), torch.zeros_like(layout.mask)
    sums = Sums(2)
    batch = Scored((0, 1, 2), True, layout, reference_log_probs, inputs, [inputs])
    updater.learn(batch, FreshTargets(ppo, objective), LossScale(9, 3), sums)
    assert all(not w.grad.any() for module in (policy, critic) for w in module.parameters() if w.grad is not None)
    assert any(w.grad is not None for w in policy.parameters())
    gathered = sums.gathered()
    assert (gathered.policy_loss, gathered.tokens, gathered.kl, gathered.value_losses) == (0, 0, 0, [0, 0])


def test_advantages_are_combined_anew_by_the_multipliers_of_an_optimizer_step() -> None:
    reward, cost = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    targets = Targets(torch.zeros(1, 2), torch.zeros(1, 2), [], [], [reward, cost])
    assert torch.equal(targets.weighed([3.0]).advantages, (reward - 3 * cost) / 4)


def test_rows_of_targets_come_back_padded_in_any_order() -> None:
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    values = torch.tensor([[1.0, 2, 3], [4, 0, 0]])
    targets = Targets(values, values + 10, [values + 20, values + 25], [values + 30, values + 40])
    rows = [targets.row(1, 1), targets.row(0, 3)]
    assert [len(row.advantages) for row in rows] == [1, 3]
    layout = lay_out([[5], [5]], [[6], [6, 7, 8]], 0, torch.device("cpu"))
    assert torch.equal(layout.mask, mask[[1, 0]])
    batch = Scored((4, 2), False, layout, mask, {}, [])
    back = StoredTargets({2: rows[1], 4: rows[0]}).targets(batch)
    assert back.old_log_probs.tolist() == [[4, 0, 0], [1, 2, 3]]
    assert back.returns[1].tolist() == [[44, 0, 0], [41, 42, 43]]


def test_whitening_is_over_all_tokens_of_the_rollout() -> None:
    rows = {index: Targets(torch.zeros(len(a)), torch.tensor(a), [], []) for index, a in enumerate([[1.0, 2.0], [6.0]])}
    advantages = torch.cat([whitened(rows)[0].advantages, whitened(rows)[1].advantages])
    expected = (np.array([1, 2, 6]) - 3) / np.std([1, 2, 6])
    np.testing.assert_allclose(advantages, expected, rtol=1e-5)
