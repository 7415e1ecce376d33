"""The `ppo` stage on tiny models: what it learns from, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_cases import base, case, metrics, weights
from safetensors.torch import load_file, save_file
from stage_gang import Case, alone
from tiny import WORDS, tiny_scorer

from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.ppo.critics import make_heads, start
from rlhf_trainer.ppo.task import PpoTask
from rlhf_trainer.storage.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("ppo"))


def run(home: Path, **fields: Any) -> tuple[Case, list[dict[str, float]]]:
    ppo_case = case(home, **fields)
    alone(ppo_case)
    return ppo_case, metrics(ppo_case)


def close(first_rows: list[dict[str, float]], second_rows: list[dict[str, float]], tolerance: float = 2e-4) -> None:
    assert len(first_rows) == len(second_rows)
    for a, b in zip(first_rows, second_rows, strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)


def test_one_run_leaves_policy_critics_metrics_and_facts(home: Path) -> None:
    finished, rows = run(home)
    assert [line["step"] for line in rows] == [1, 2, 3]
    first = rows[0]
    assert first["kl"] == pytest.approx(0, abs=1e-4)  # the reference is the policy at the start
    assert first["reward"] == pytest.approx(first["reward.rm"])
    assert first["cost_window.cm"] == first["cost.cm"]
    # log lambda += clip(rate (J - limit), +-maxStep), before the step's advantages
    assert first["lambda.cm"] == pytest.approx(math.exp(max(-0.3, min(0.3, 0.1 * first["cost.cm"]))))
    assert rows[1]["lambda.cm"] == pytest.approx(
        first["lambda.cm"] * math.exp(max(-0.3, min(0.3, 0.1 * rows[1]["cost.cm"])))
    )
    manifest = json.loads((finished.product / "manifest.json").read_text())
    assert manifest["metrics"]["reward"] == pytest.approx(sum(line["reward"] for line in rows) / 3)
    assert manifest["counts"]["answers"] == 3 * 8
    assert manifest["counts"]["prompts.used"] == 7
    policy, tokenizer = load_policy(finished.product, "float32")
    trained, before = dict(policy.named_parameters()), dict(load_policy(home / "sft", "float32")[0].named_parameters())
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    timings = [json.loads(line) for line in (finished.work / "timings.jsonl").read_text().splitlines()]
    assert {"generate", "score", "update", "sync"} <= timings[0]["phases"].keys()
    assert timings[0]["tokens"]["generate"] == first["tokens"]


def test_saved_critics_go_on_where_they_stopped(home: Path) -> None:
    finished, _ = run(home)
    critic = start(finished.product, "reward", {}, "float32", home, classifier=False)
    state = load_file(finished.product / "critics" / "shared" / "heads.safetensors")
    assert json.loads((finished.product / "critics" / "shared" / "heads.json").read_bytes()) == ["reward", "cost.cm"]
    torch.testing.assert_close(critic.heads["cost.cm"][0], state["weight"][1])
    assert state["bias"].any()
    again = case(home, critics={"model": {"stage": "earlier"}}, name="again")
    again.inputs["stage:earlier"] = str(finished.product)
    alone(again)
    assert metrics(again)[0]["value_loss"] != pytest.approx(metrics(finished)[0]["value_loss"], rel=1e-3)


def test_a_critic_starts_as_its_own_streams_score_and_others_at_zero(home: Path) -> None:
    critic = start(home / "rm", "reward", {"reward": -2.0}, "float32", home, classifier=True)
    score = load_file(home / "rm" / "model.safetensors")["score.weight"]
    heads = make_heads(["reward", "cost.cm"], critic.heads, critic.model.model)
    torch.testing.assert_close(heads.weight[0], -2.0 * score[0])
    assert not heads.weight[1].any()
    assert not heads.bias.any()


def test_a_trunk_of_all_streams_that_starts_as_the_cost_model_has_its_score_as_value(home: Path) -> None:
    _, rows = run(home, critics={"model": {"stage": "cm"}, "learningRate": 1e-9}, steps=1, name="of-cost")
    _, without = run(home, critics={"model": {"stage": "sft"}, "learningRate": 1e-9}, steps=1, name="of-policy")
    assert rows[0]["explained_variance"] == without[0]["explained_variance"] == 0.0  # of the reward nothing is known
    assert rows[0]["cost_explained_variance.cm"] != without[0]["cost_explained_variance.cm"] == 0.0


def test_the_training_forward_gives_what_a_second_pass_would(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single_pass, rows = run(home, name="one")
    monkeypatch.setattr(PpoTask, "one_pass", property(lambda _: False))
    two, recomputed = run(home, name="two")
    close(rows, recomputed)
    for name, weight in weights(single_pass).items():
        torch.testing.assert_close(weight, weights(two)[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"epochs": 2}, False),
        ({"miniBatches": 2}, False),
        ({"whitenAdvantages": True}, False),
        ({"lora": {"rank": 2, "dropout": 0.1}}, False),
    ],
)
def test_one_pass_only_where_it_is_exact(
    home: Path, fields: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    step = PpoTask.step
    monkeypatch.setattr(PpoTask, "step", lambda self, number: (passes.append(self.one_pass), step(self, number))[1])
    run(home, steps=1, name="passes" + "-".join(fields), **fields)
    assert passes == [expected]


@pytest.mark.parametrize("fields", [{}, {"trainableLayers": 1}, {"lora": {"rank": 2}}, {"epochs": 2, "miniBatches": 2}])
def test_micro_batches_change_no_result(home: Path, fields: dict[str, Any]) -> None:
    name = "split" + "-".join(fields)
    _, unsplit = run(home, name=name + "w", execution={"microBatchTokens": 100000}, **fields)
    _, split = run(home, name=name + "s", execution={"microBatchTokens": 30, "gradientCheckpointing": True}, **fields)
    close(unsplit, split, 2e-3)


def test_frozen_lower_layers_stay_and_the_upper_ones_move(home: Path) -> None:
    finished, rows = run(home, trainableLayers=1, name="top")
    before, after = load_file(home / "sft" / "model.safetensors"), weights(finished)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in moved)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)


def test_with_lora_the_reference_is_the_policy_without_adapters(home: Path) -> None:
    _, rows = run(home, lora={"rank": 2}, learningRate=0.05, name="lora")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert abs(rows[2]["kl"]) > 1e-3


def test_a_reference_of_its_own_is_what_kl_is_measured_against(home: Path) -> None:
    _, rows = run(home, reference={"stage": "other"}, name="reference")
    assert abs(rows[0]["kl"]) > 0.1


def test_separate_critics_have_a_model_and_a_gradient_each(home: Path) -> None:
    finished, rows = run(home, critics={"trunk": "separate", "learningRate": 0.01}, name="apart")
    assert {"critic_grad_norm.reward", "critic_grad_norm.cm"} <= rows[0].keys()
    assert sorted(path.name for path in (finished.product / "critics").iterdir()) == ["cm", "reward"]


def test_rewards_are_weighted_and_functions_judge_texts(home: Path) -> None:
    rewards = [{"stage": "rm", "weight": 2.0}, {"function": "ppo_judges:length", "weight": -0.5, "name": "long"}]
    _, rows = run(home, rewards=rewards, costs=[], name="several")
    for line in rows:
        assert line["reward"] == pytest.approx(2 * line["reward.rm"] - 0.5 * line["reward.long"])
        assert not any(name.startswith(("lambda", "cost")) for name in line)


def test_a_cost_model_is_a_penalty_where_its_weight_is_negative(home: Path) -> None:
    rewards = [{"stage": "rm"}, {"stage": "cm", "weight": -1.0}]
    _, rows = run(home, rewards=rewards, costs=[], name="shaped")
    for line in rows:
        assert line["reward"] == pytest.approx(line["reward.rm"] - line["reward.cm"])
        assert not any(name.startswith(("lambda", "cost")) for name in line)


def test_two_costs_have_a_multiplier_a_limit_and_a_head_each(home: Path) -> None:
    costs = [{"stage": "cm", "limit": -100.0}, {"function": "ppo_judges:length", "limit": 1e6}]
    _, rows = run(home, costs=costs, name="two-costs")
    assert rows[-1]["lambda.cm"] == pytest.approx(math.exp(0.3 * 3))
    assert rows[-1]["lambda.length"] == pytest.approx(math.exp(-0.3 * 3))
    assert {"cost_value_loss.cm", "cost_value_loss.length", "cost_explained_variance.length"} <= rows[0].keys()


def test_ensembles_report_how_far_their_members_disagree(home: Path) -> None:
    _, rows = run(home, rewards=[{"stage": "ensemble"}], name="ensemble")
    assert rows[0]["disagreement.ensemble"] > 0
    assert "disagreement.cm" not in rows[0]


def test_missing_eos_is_paid_for_in_the_advantage_and_not_in_the_metric(home: Path) -> None:
    _, without = run(home, steps=1, name="free")
    _, paid = run(home, steps=1, missingEosPenalty=10.0, name="paid")
    assert paid[0]["missing_eos"] > 0
    assert paid[0]["reward"] == without[0]["reward"]
    assert paid[0]["value_loss"] > without[0]["value_loss"] + 1


def test_answers_of_eos_alone_are_learned_from(home: Path) -> None:
    _, rows = run(home, policy={"stage": "silent"}, name="silent")
    assert rows[0]["length"] == 1
    assert rows[0]["missing_eos"] == 0
    assert all(math.isfinite(value) for value in rows[-1].values())


def test_ptx_is_the_cross_entropy_of_its_conversations(home: Path) -> None:
    _, rows = run(home, ptx={"data": [{"input": "chat"}], "coefficient": 2.0, "batchSize": 3}, name="ptx")
    for line in rows:
        assert line["loss"] == pytest.approx(line["policy_loss"] + 2.0 * line["ptx_loss"])
    assert rows[-1]["ptx_loss"] < rows[0]["ptx_loss"]


def test_adaptive_kl_moves_beta_after_the_step_it_was_used_in(home: Path) -> None:
    kl = {"coefficient": 0.1, "target": 0.5, "horizon": 8.0}
    _, rows = run(home, kl=kl, name="adaptive")
    assert rows[0]["kl_coefficient"] == 0.1
    assert rows[1]["kl_coefficient"] == pytest.approx(0.1 * math.exp(max(-1, rows[0]["kl"] / 0.5 - 1)))


def test_safe_rlhfs_rule_moves_lambda_before_every_optimizer_step(home: Path) -> None:
    _, rows = run(home, lagrange={"rule": "safe-rlhf", "rate": 0.1}, name="their-rule")
    first = 0.1 * rows[0]["cost.cm"]
    assert math.log(rows[0]["lambda.cm"]) == pytest.approx(first)
    assert math.log(rows[1]["lambda.cm"]) == pytest.approx(first + 0.1 * rows[1]["cost.cm"] * math.exp(first))
    _, rows = run(home, lagrange={"rule": "safe-rlhf", "rate": 0.1}, epochs=2, name="their-rule-twice")
    log = 0.0
    for row, steps in ((rows[0], 1), (rows[0], 1), (rows[1], 1)):
        log += steps * 0.1 * row["cost.cm"] * math.exp(log)
    assert math.log(rows[1]["lambda.cm"]) == pytest.approx(log)


def test_another_tokenizer_is_refused_with_the_field(home: Path) -> None:
    tiny_scorer(home / "foreign", words=WORDS[:-3])
    ppo_case = case(home, rewards=[{"stage": "foreign"}], name="foreign")
    with pytest.raises(InputError, match=r"rewards\[0\] \(stage:foreign\): its tokenizer is not the policy's") as error:
        alone(ppo_case)
    assert error.value.code == 2


def test_an_unreachable_limit_ends_as_infeasible_with_its_checkpoint_kept(home: Path) -> None:
    lagrange = {"initial": 1.0, "max": 1.0, "patience": 3}
    ppo_case = case(home, lagrange=lagrange, costs=[{"stage": "cm", "limit": -100.0}], name="infeasible")
    with pytest.raises(GuardTripped, match=r"costs\[0\] \(cm\).*Cov\(c, r \+ c\) = ") as error:
        alone(ppo_case)
    assert (error.value.code, error.value.reason) == (3, "Infeasible")
    assert (
        Checkpoints(ppo_case.work / "checkpoints", digest=ppo_case.digest, rank=0, world=1, keep=2).latest() is not None
    )
    assert not ppo_case.product.exists()


def test_a_kl_guard_stops_before_the_step_that_would_follow(home: Path) -> None:
    ppo_case = case(home, reference={"stage": "other"}, guards={"kl": {"max": 0.01, "patience": 1}}, name="kl-guard")
    with pytest.raises(GuardTripped, match=r"guards\.kl") as error:
        alone(ppo_case)
    assert error.value.reason == "KL"


def test_a_gold_score_is_watched_and_never_optimised(home: Path) -> None:
    guards = {"gold": {"function": "ppo_judges:length"}, "goldGap": {"max": 1e9}}
    _, watched = run(home, guards=guards, name="gold")
    _, plain = run(home, name="no-gold")
    assert watched[0]["gold_gap"] == 0
    strip = [{key: value for key, value in line.items() if not key.startswith("gold")} for line in watched]
    assert strip == plain


def test_nan_from_a_model_stops_before_the_weights_hold_it(home: Path) -> None:
    tiny_scorer(home / "broken")
    state = load_file(home / "broken" / "model.safetensors")
    state["score.weight"].fill_(math.nan)
    save_file(state, home / "broken" / "model.safetensors", metadata={"format": "pt"})
    ppo_case = case(home, rewards=[{"stage": "broken"}], critics={"model": {"stage": "sft"}}, name="nan")
    with pytest.raises(GuardTripped, match=r"reward\.broken = nan") as error:
        alone(ppo_case)
    assert error.value.reason == "NaN"


def test_seeds_give_other_answers_and_the_same_seed_the_same_bytes(home: Path) -> None:
    first, _ = run(home, name="seed-a")
    second, _ = run(home, name="seed-b")
    assert (first.work / "metrics.jsonl").read_bytes() == (second.work / "metrics.jsonl").read_bytes()
    third = replace(case(home, name="seed-c"), seed=8)
    alone(third)
    assert metrics(third)[0]["reward"] != metrics(first)[0]["reward"]
