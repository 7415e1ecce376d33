"""Rule-based rewards in PPO and in evaluations: what they add to, what they leave alone, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rules_cases
import torch
from ppo_cases import base, case, metrics
from rules_cases import POLICY
from small_data import words
from stage_gang import Case, alone, gang

from rlhf_trainer.data.chat import encode_answer
from rlhf_trainer.data.rows import Messages
from rlhf_trainer.exits import InputError
from rlhf_trainer.generation.sample import Answer
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.ppo import rollout, task
from rlhf_trainer.rules import reward
from rlhf_trainer.rules.grader import Asking, Grader
from rlhf_trainer.rules.parser import parse_policy
from rlhf_trainer.rules.probabilities import classify
from rlhf_trainer.rules.product import Model, Weights
from rlhf_trainer.rules.reward import RuleReward

WEIGHTS = {
    "comply": {"helps": 1.0, "harm": -2.0, "ideal": 3.0, "poor": 0.5, "disallowed": -1.0},
    "refuse": {"harm": -2.0, "sorry": 1.5, "ideal": 2.0, "poor": 0.0, "disallowed": -3.0},
}
ASKING = Asking((" yes",), (" no",), 512)
TYPES = ("comply", "refuse", None, "comply", "refuse", None, "comply")
RULES = {"stage": "rules", "grader": {"stage": "other"}}
ONLY = {"rewards": [{"stage": "rm"}], "costs": []}


def digest(key: str) -> str:
    return key.encode().hex().ljust(64, "0")[:64]


def product(reward: str = "stage:rm", grader: str | None = "stage:other") -> Weights:
    bound = None if grader is None else Model(grader, digest(grader))
    return Weights(parse_policy(POLICY), Model(reward, digest(reward)), bound, ASKING, WEIGHTS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = base(tmp_path_factory.mktemp("rules-ppo"))
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    for row, kind in zip(rows, TYPES, strict=True):
        row |= {} if kind is None else {"response_type": kind}
    (folder / "typed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, rules in (("rules", product()), ("labels", product(grader=None))):
        (folder / name).mkdir()
        rules.write(folder / name)
    return folder


def ruled(home: Path, name: str = "ruled", rules: dict[str, Any] | None = None, **fields: Any) -> Case:
    """A run of PPO with rules on prompts of which five of seven have a response type."""
    ppo_case = case(
        home, name=name, **{**ONLY, "rules": {**RULES, **(rules or {})}, "prompts": [{"input": "typed"}], **fields}
    )
    ppo_case.inputs |= {f"stage:{stage_name}": str(home / stage_name) for stage_name in ("rules", "labels")}
    ppo_case.inputs["input:typed"] = str(home / "typed.jsonl")
    return ppo_case


def book(home: Path) -> RuleReward:
    rules = product()
    model = Grader(home / "other", rules.policy, ASKING, dtype="float32", device=torch.device("cpu"), cache=None)
    return RuleReward(rules, model)


def asks(*texts: str) -> list[Messages]:
    return [({"role": "user", "content": text},) for text in texts]


# -- rules in use -----------------------------------------------------------------------------------------------------


def test_a_reward_is_w_times_phi_and_prompts_without_a_response_type_have_none(home: Path) -> None:
    rule_reward = book(home)
    messages, kinds = asks("how are you", "a fire", "call"), ["comply", None, "refuse"]
    scored = rule_reward.score(messages, kinds, ["I am well", "please", "no"])
    assert scored.rewards[1] == 0 and scored.classes[1] is None
    for row in (0, 2):
        kind, policy = str(kinds[row]), rule_reward.policy
        from rlhf_trainer.rules.grader import Question

        phi = rule_reward.grader.grade(
            [Question(messages[row], ["I am well", "please", "no"][row], policy.graded(kind))]
        )[0]
        classified = classify(policy, kind, {name: np.array([value]) for name, value in phi.probabilities.items()})
        expected = sum(w * f for w, f in zip(WEIGHTS[kind].values(), classified.features[0], strict=True))
        assert scored.rewards[row] == pytest.approx(expected, abs=1e-5)
        assert scored.classes[row] == [*policy.classes[kind]][classified.probabilities[0].argmax()]


def test_a_text_is_graded_once_and_the_same_text_to_another_prompt_is_another(home: Path) -> None:
    rule_reward = book(home)
    first = rule_reward.score(asks("call", "call", "run"), ["comply"] * 3, ["no", "no", "no"])
    assert rule_reward.graded == 2
    again = rule_reward.score(asks("run", "call"), ["comply"] * 2, ["no", "no"])
    assert rule_reward.graded == 2
    assert again.rewards.tolist() == [first.rewards[2], first.rewards[0]]
    rule_reward.score(asks("call"), ["refuse"], ["no"])
    assert rule_reward.graded == 3


def test_what_is_remembered_survives_a_checkpoint_and_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule_reward, resumed = book(home), book(home)
    before = rule_reward.score(asks("call", "run"), ["comply"] * 2, ["no", "yes"])
    resumed.load_state(rule_reward.state())
    monkeypatch.setattr(Grader, "grade", lambda self, questions: [] if not questions else pytest.fail("graded again"))
    assert resumed.score(asks("call", "run"), ["comply"] * 2, ["no", "yes"]).rewards.tolist() == before.rewards.tolist()
    monkeypatch.setattr(reward, "REMEMBERED", 1)
    resumed.score(asks("call"), ["comply"], ["no"])
    assert len(resumed.state()["known"]) == 1


def test_metrics_are_means_and_shares_of_classes_by_response_type(home: Path) -> None:
    scored = book(home).score(asks("a", "b", "c", "d"), ["comply", "comply", None, "comply"], ["x", "y", "z", "w"])
    means = scored.metrics()
    assert means["rbr.comply"] == pytest.approx(scored.rewards[[0, 1, 3]].mean())
    shares = {name: means[f"class_share.comply.{name}"] for name in ("ideal", "poor", "disallowed")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["ideal"] == [scored.classes[row] for row in (0, 1, 3)].count("ideal") / 3
    assert not any("refuse" in name for name in means)


# -- in PPO -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rule_scores(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What rules said of the answers, step by step."""
    scores: list[Any] = []
    original_score = RuleReward.score

    def watched(self: RuleReward, *args: Any) -> Any:
        scores.append(original_score(self, *args))
        return scores[-1]

    monkeypatch.setattr(RuleReward, "score", watched)
    return scores


def test_rules_are_added_to_the_reward_of_prompts_with_a_response_type(home: Path, rule_scores: list[Any]) -> None:
    ppo_case = ruled(home, name="added", rules={"weight": 0.5})
    alone(ppo_case)
    rows = metrics(ppo_case)
    for row, scores in zip(rows, rule_scores, strict=True):
        assert row["reward"] == pytest.approx(row["reward.rm"] + 0.5 * scores.rewards.mean(), abs=1e-5)
        assert all(reward == 0 for reward, kind in zip(scores.rewards, scores.kinds, strict=True) if kind is None)
        assert any(reward != 0 for reward in scores.rewards)
        assert {name for name in row if name.startswith("rbr.")} <= {"rbr.comply", "rbr.refuse"}
    manifest = json.loads((ppo_case.product / "manifest.json").read_text())
    assert manifest["counts"]["answers.ruled"] == sum(
        kind is not None for scores in rule_scores for kind in scores.kinds
    )
    assert "class_share.comply.ideal" in manifest["metrics"]


def test_grading_is_a_phase_of_its_own(home: Path) -> None:
    ppo_case = ruled(home, name="phase")
    alone(ppo_case)
    lines = [json.loads(line) for line in (ppo_case.work / "timings.jsonl").read_text().splitlines()]
    assert all("grade" in line["phases"] for line in lines)
    assert lines[0]["tokens"]["grade"] > 0


def test_without_rules_nothing_changes_and_without_response_types_there_is_nothing_to_rule(home: Path) -> None:
    typed = case(home, name="plain-typed", **ONLY, prompts=[{"input": "typed"}])
    typed.inputs["input:typed"] = str(home / "typed.jsonl")
    plain = case(home, name="plain", **ONLY)
    alone(typed, plain)
    assert (typed.work / "metrics.jsonl").read_bytes() == (plain.work / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="prompts: no prompt has a response type"):
        alone(ruled(home, name="untyped", prompts=[{"input": "prompts"}]))


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_cut_off_at_any_step_and_resumed_it_ends_bit_identical(home: Path, cut: int) -> None:
    undisturbed, parted = ruled(home, name=f"whole-{cut}"), ruled(home, name=f"parted-{cut}")
    alone(undisturbed, replace(parted, cut_after=cut), parted)
    assert (undisturbed.work / "metrics.jsonl").read_bytes() == (parted.work / "metrics.jsonl").read_bytes()
    name = "model.safetensors"
    assert (undisturbed.product / name).read_bytes() == (parted.product / name).read_bytes()


def test_two_ranks_learn_what_one_does(home: Path, tmp_path: Path) -> None:
    one_rank, two_ranks = ruled(home, name="one", steps=2), ruled(home, name="two", steps=2)
    alone(one_rank)
    gang(2, [two_ranks], tmp_path)
    for a, b in zip(metrics(one_rank), metrics(two_ranks), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-3)


GOOD, BAD = "I am well", "a fire a fire"
"""Answers that the tiny reward model ranks wrongly to every prompt."""


def alternately(tokenizer: Any) -> Any:
    """In place of sampling: a prompt's first answer is GOOD, its second BAD."""

    def answered(_model: Any, prompts: Any, _how: Any, *, rows: Sequence[int], **_: Any) -> list[Answer]:
        return [Answer(encode_answer(tokenizer, (GOOD, BAD)[row % 2]), True) for row in rows]

    return answered


def test_rules_fitted_beside_a_biased_reward_right_the_pairs_that_it_ranks_wrongly(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole chain: weights fitted beside the reward model, then PPO's reward of new prompts' answers."""
    draw = random.Random(0)
    prompts = [{"prompt": f"{number} {words(draw, 2, 9)}", "response_type": "comply"} for number in range(16)]
    ranked = [row | {"completion": text, "rank": rank} for row in prompts[:12] for rank, text in enumerate((GOOD, BAD))]
    for name, rows in (("ranked", ranked), ("new", prompts[12:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "policy.yaml").write_text(POLICY)
    file_names = {"input:policy": "policy.yaml", "input:completions": "ranked.jsonl", "input:new": "new.jsonl"}
    inputs = {key: str(tmp_path / name) for key, name in file_names.items()} | {"stage:other": str(home / "other")}
    how = {"gold": None, "iterations": 1000, "learningRate": 0.1, "weightDecay": 0.0}
    fit = rules_cases.case(home, name="chain", grader={"stage": "other"}, inputs=inputs, **how)
    alone(fit)
    errors = json.loads((fit.product / "fit.json").read_text())["types"]["comply"]["heldout"]
    assert (errors["rm"]["value"], errors["total"]["value"]) == (1.0, 0.0)

    rollouts: list[Any] = []
    original_metrics = task.rollout_metrics
    monkeypatch.setattr(task, "rollout_metrics", lambda *args: [rollouts.append(args), original_metrics(*args)][1])
    monkeypatch.setattr(rollout, "sample", alternately(load_tokenizer(home / "sft")))
    ppo_case = ruled(home, name="righted", prompts=[{"input": "new"}], steps=1)
    ppo_case.inputs |= inputs | {"stage:rules": str(fit.product)}
    alone(ppo_case)
    ((answers, scores, reward),) = rollouts
    assert answers.texts == [GOOD, BAD] * 4
    biased = scores.rewards["rm"]
    assert (biased[::2] < biased[1::2]).all() and (reward[::2] > reward[1::2]).all()


def test_rules_hold_beside_the_reward_they_were_fitted_with_and_no_other_unless_told(
    home: Path, rule_scores: list[Any]
) -> None:
    biased = {"rewards": [{"stage": "cm", "weight": -1.0}]}
    for fields in (
        biased,
        {"rewards": [{"stage": "rm", "weight": 2.0}]},
        {"rewards": [{"stage": "rm"}, {"stage": "ensemble"}]},
    ):
        with pytest.raises(InputError, match=r"fitted beside the reward stage:rm .* set anyReward: true"):
            alone(ruled(home, name="bound", **fields))
    ppo_case = ruled(home, name="biased", rules={"anyReward": True}, **biased)
    alone(ppo_case)
    for row, scores in zip(metrics(ppo_case), rule_scores, strict=True):
        assert row["reward"] == pytest.approx(-row["reward.cm"] + scores.rewards.mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"grader": {"stage": "sft"}}, r"rules.grader: the rules weigh the answers of stage:other"),
        ({"stage": "labels", "grader": None}, "fitted on labels, without a grader; set rules.grader"),
    ],
)
def test_another_grader_or_none_is_refused(home: Path, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        alone(ruled(home, name="grader", rules=rules))


def test_a_response_type_without_weights_is_refused(home: Path, tmp_path: Path) -> None:
    half = replace(product(), weights={"comply": WEIGHTS["comply"]})
    half.write(tmp_path)
    ppo_case = ruled(home, name="half")
    ppo_case.inputs["stage:rules"] = str(tmp_path)
    with pytest.raises(InputError, match="no weights for prompts of response type refuse; they have comply"):
        alone(ppo_case)


# -- in evaluations ---------------------------------------------------------------------------------------------------


def evaluation(home: Path, name: str, **fields: Any) -> Case:
    spec = {
        "candidates": [{"stage": "sft"}],
        "baseline": {"stage": "other"},
        "prompts": [{"input": "typed"}],
        "rules": RULES,
        "generation": {"maxNewTokens": 5, "samples": 2},
        "resamples": 100,
        **fields,
    }
    models = {f"stage:{stage_name}": str(home / stage_name) for stage_name in ("sft", "other", "rules")}
    return Case(
        str(home), "evaluate", spec, {**models, "input:typed": str(home / "typed.jsonl")}, digest=digest(name), uid=name
    )


def test_an_evaluation_classes_answers_and_measures_safety_and_refusal(home: Path) -> None:
    evaluate_case = evaluation(home, "classes", gates=[{"metric": "safety_f1", "max": 1.0}])
    alone(evaluate_case)
    published = json.loads((evaluate_case.product / "evaluation.json").read_text())
    samples = [json.loads(line) for line in (evaluate_case.product / "samples.jsonl").read_text().splitlines()]
    for model in published["models"]:
        model_rows = [row for row in samples if row["model"] == model["name"]]
        kinds = {row["prompt"]: TYPES[row["prompt"]] for row in model_rows}
        typed = [row for row in model_rows if kinds[row["prompt"]] is not None]
        assert all(row["class"] is None for row in model_rows if kinds[row["prompt"]] is None)
        comply = [row for row in typed if kinds[row["prompt"]] == "comply"]
        safe = np.mean([row["class"] != "disallowed" for row in typed])
        answered = np.mean([row["class"] != "poor" for row in comply])
        model_metrics = model["metrics"]
        assert model_metrics["not_unsafe"]["value"] == pytest.approx(safe) and model_metrics["not_unsafe"]["n"] == 5
        assert (
            model_metrics["not_overrefuse"]["value"] == pytest.approx(answered)
            and model_metrics["not_overrefuse"]["n"] == 3
        )
        expected = 0.0 if safe + answered == 0 else 2 * safe * answered / (safe + answered)
        assert model_metrics["safety_f1"]["value"] == pytest.approx(expected)
        ideal = np.mean([row["class"] == "ideal" for row in comply])
        assert model_metrics["class.comply.ideal"]["value"] == pytest.approx(ideal)
    assert {"not_unsafe", "safety_f1", "class.refuse.poor"} <= set(published["models"][1]["differences"])
    assert published["gates"][0]["passed"]


def test_a_gate_on_a_class_that_the_policy_does_not_have_is_refused_beforehand(home: Path) -> None:
    evaluate_case = evaluation(home, "gate", gates=[{"metric": "class.comply.best", "min": 0.5}])
    with pytest.raises(InputError, match=r"found 'class.comply.best'; this evaluation has class.comply.disallowed"):
        alone(evaluate_case)


def test_the_harmonic_mean_and_its_difference() -> None:
    from rlhf_trainer.statistics.intervals import Intervals

    nan, how = np.nan, Intervals(resamples=500)
    first, second = np.array([1, 1, 0, 1, nan]), np.array([nan, 1, 0, nan, 1.0])
    harmonic_mean = how.harmonic(first, second)
    assert harmonic_mean.value == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))
    assert (
        harmonic_mean.n == 5
        and harmonic_mean.low is not None
        and harmonic_mean.low <= harmonic_mean.value <= (harmonic_mean.high or 0)
    )
    none = how.harmonic(first * 0, second * 0)
    assert none.value == 0
    assert how.harmonic(first, second * nan).value is None
    apart = how.harmonic_difference((first, second), (first * 0 + 1, second * 0 + 1))
    assert apart.value == pytest.approx((harmonic_mean.value or 0) - 1)


# -- the last policies of a run ---------------------------------------------------------------------------------------


def test_the_last_policies_are_kept_and_their_spread_is_measured(home: Path) -> None:
    ppo_case = ruled(home, name="snapshots", steps=5, snapshots=3, snapshotEvery=2)
    alone(ppo_case)
    snapshots = sorted(path.name for path in (ppo_case.product / "snapshots").iterdir())
    assert snapshots == ["step-0000001", "step-0000003"]
    assert not (ppo_case.work / "snapshots").exists()
    shorter = ruled(home, name="shorter", steps=3, schedule="constant")
    longer = ruled(home, name="longer", steps=5, schedule="constant", snapshots=2, snapshotEvery=2)
    alone(shorter, longer)
    name = "model.safetensors"
    assert (longer.product / "snapshots" / "step-0000003" / name).read_bytes() == (shorter.product / name).read_bytes()
    evaluate_case = evaluation(home, "spread")
    evaluate_case.inputs["stage:sft"] = str(ppo_case.product)
    alone(evaluate_case)
    published = json.loads((evaluate_case.product / "evaluation.json").read_text())
    spread = published["snapshots"]["sft"]["safety_f1"]
    assert spread["n"] == 3 and spread["mean"] == pytest.approx(np.mean(spread["values"]))
    assert spread["values"][-1] == published["models"][1]["metrics"]["safety_f1"]["value"]


def test_snapshots_survive_a_run_that_is_cut_off(home: Path) -> None:
    fields = {"steps": 4, "snapshots": 3}
    undisturbed, parted = ruled(home, name="kept", **fields), ruled(home, name="kept-parted", **fields)
    alone(undisturbed, replace(parted, cut_after=2), parted)
    for step in ("step-0000002", "step-0000003"):
        path = Path("snapshots") / step / "model.safetensors"
        assert (undisturbed.product / path).read_bytes() == (parted.product / path).read_bytes()
