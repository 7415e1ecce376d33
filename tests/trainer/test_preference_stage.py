"""The `rewardModel` and `costModel` stages as a whole, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
import torch
from safetensors.torch import load_file
from stage_gang import Case, alone
from tiny import tiny_policy, tiny_scorer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_trainer.data.chat import encode_row
from rlhf_trainer.exits import InputError
from rlhf_trainer.losses.preference import poisson_weights
from rlhf_trainer.models.scorer import load_scorer

SPEC = {
    "model": {"input": "base"},
    "data": [{"input": "prefs"}],
    "epochs": 4.0,
    "batchSize": 8,
    "maxLength": 64,
    "holdout": 0.3,
    "learningRate": 5e-3,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preference")
    tiny_policy(folder / "base")
    small_data.preferences(folder / "prefs.jsonl", rows=60)
    return folder


def case(root: Path, type_: str, digest: str, model: str = "base", prefs: str = "prefs.jsonl", **spec: Any) -> Case:
    inputs = {"input:base": str(root / model), "input:prefs": str(root / prefs)}
    storage = str(root / "storage")
    return Case(storage, type_, {**SPEC, **spec}, inputs, {}, digest=digest.rjust(64, "0"), uid=digest)


def manifest(finished: Case) -> dict[str, Any]:
    return json.loads((finished.product / "manifest.json").read_text())  # type: ignore[no-any-return]


def steps(finished: Case) -> list[dict[str, float]]:
    return [json.loads(line) for line in (finished.work / "metrics.jsonl").read_text().splitlines()]


def test_a_reward_model_learns_the_order_and_is_judged_beside_the_shorter_answer(root: Path) -> None:
    reward_case = case(root, "rewardModel", "a1", evalEvery=10)
    alone(reward_case)
    metrics = manifest(reward_case)["metrics"]
    accuracy, baseline = metrics["accuracy"], metrics["accuracy_shorter_wins"]
    assert accuracy["n"] == baseline["n"] == manifest(reward_case)["counts"]["rows.heldout"]
    assert accuracy["low"] > max(0.5, baseline["value"])
    assert 0 <= metrics["ece"]["value"] <= 1
    assert metrics["length_correlation"]["n"] == 2 * accuracy["n"]
    assert [line["step"] for line in steps(reward_case) if "heldout_accuracy" in line] == [10, 20]
    assert steps(reward_case)[-1]["loss"] < steps(reward_case)[0]["loss"]


def test_a_cost_model_learns_order_and_signs_and_the_product_scores_so(root: Path) -> None:
    cost_case = case(root, "costModel", "a2", epochs=6.0)
    alone(cost_case)
    metrics = manifest(cost_case)["metrics"]
    assert metrics["sign_accuracy"]["low"] > metrics["sign_accuracy_majority"]["value"]
    assert metrics["balanced_accuracy"]["low"] > 0.5
    scorer = load_scorer(cost_case.product, "float32", kind="cost")
    tokenizer = json.loads((cost_case.product / "tokenizer_config.json").read_text())
    assert tokenizer["pad_token"] != tokenizer["eos_token"]
    assert scorer.rule.members == 1


@pytest.mark.parametrize("members", [1, 2])
def test_the_first_loss_is_that_of_the_given_scorer_by_hand(root: Path, members: int) -> None:
    """All rows in one step, mu 0.1, heads kept; in an ensemble each member weighs rows by its Poisson counts."""
    base = tiny_scorer(root / f"scorer-{members}", labels=members)
    reward_case = case(
        root,
        "rewardModel",
        f"a{5 + members}",
        base.name,
        members=members,
        batchSize=60,
        holdout=0.0,
        maxSteps=1,
        regularization=0.1,
    )
    alone(reward_case)
    model = AutoModelForSequenceClassification.from_pretrained(base).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    weights = poisson_weights(60, members, reward_case.seed)
    losses = []
    for number, line in enumerate((root / "prefs.jsonl").read_text().splitlines()):
        row = json.loads(line)
        prompt = ({"role": "user", "content": row["prompt"]},)
        scores = []
        for side in (row["better_response_id"], 1 - row["better_response_id"]):
            ids = encode_row(tokenizer, prompt, row[f"response_{side}"], 64).ids  # type: ignore[arg-type]
            with torch.no_grad():
                scores.append(model(input_ids=torch.tensor([ids])).logits[0].numpy())
        good, bad = scores
        each = np.log1p(np.exp(bad - good)) + 0.1 * (good**2 + bad**2) / 2
        losses.append((weights[:, number] * each).mean())
    assert weights.shape == (members, 60)
    assert steps(reward_case)[0]["loss"] == pytest.approx(float(np.mean(losses)), rel=1e-4)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_an_ensembles_members_see_their_own_weights_and_differ(root: Path, trunk: str) -> None:
    reward_case = case(root, "rewardModel", "c8" if trunk == "shared" else "c9", members=3, ensemble={"trunk": trunk})
    alone(reward_case)
    scorer = load_scorer(reward_case.product, "float32")
    assert scorer.rule.members == 3
    assert len(scorer.models) == (1 if trunk == "shared" else 3)
    assert len(scorer.rule.mean) == 3
    assert all(std > 0 for std in scorer.rule.std)
    published = manifest(reward_case)
    assert published["metrics"]["disagreement"] > 0
    assert len(published["metrics"]["accuracy_members"]) == 3
    assert any("standardised on the held-out answers" in note for note in published["notes"])


def test_standardised_members_have_mean_0_and_deviation_1_on_the_heldout_answers(root: Path) -> None:
    reward_case = case(root, "rewardModel", "b9", members=2, ensemble={"combine": "mean"}, maxSteps=4)
    alone(reward_case)
    metrics = manifest(reward_case)["metrics"]
    assert metrics["score_mean"] == pytest.approx(0.0, abs=1e-4)
    assert 0.5 < metrics["score_std"] <= 1.0 + 1e-6  # a mean of two standardised members varies no more than one


def test_a_cost_ensemble_is_not_shifted(root: Path) -> None:
    cost_case = case(root, "costModel", "b8", members=2, maxSteps=2)
    alone(cost_case)
    assert load_scorer(cost_case.product, "float32").rule.mean == ()


def test_frozen_layers_come_out_as_they_went_in(root: Path) -> None:
    cost_case = case(root, "costModel", "c1", trainableLayers=1)
    alone(cost_case)
    before = load_file(root / "base" / "model.safetensors")
    after = load_file(cost_case.product / "model.safetensors")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if ".layers.0." in name or "embed" in name} <= same
    assert not {name for name in before if ".layers.1.mlp" in name} & same


def test_a_reward_model_trains_on_from_another(root: Path) -> None:
    first = case(root, "rewardModel", "c2", maxSteps=3)
    alone(first)
    second = Case(
        first.storage,
        "rewardModel",
        {**first.spec, "model": {"stage": "first"}},
        {"stage:first": str(first.product), "input:prefs": first.inputs["input:prefs"]},
        digest="c3".rjust(64, "0"),
        uid="c3",
    )
    alone(second)
    assert steps(second)[0]["loss"] < steps(first)[0]["loss"]


def test_without_safety_columns_a_cost_model_is_refused(root: Path) -> None:
    small_data.write(root / "plain.jsonl", [{"prompt": "what", "chosen": "yes", "rejected": "no"}] * 4)
    with pytest.raises(InputError):
        alone(case(root, "costModel", "d1", prefs="plain.jsonl"))


def test_inconsistent_rows_are_counted_and_left_out(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "prefs.jsonl").read_text().splitlines()]
    index = next(i for i, row in enumerate(rows) if row["is_response_0_safe"] != row["is_response_1_safe"])
    safer = rows[index]["safer_response_id"]
    rows[index] |= {f"is_response_{safer}_safe": False, f"is_response_{1 - safer}_safe": True}
    small_data.write(root / "odd.jsonl", rows)
    cost_case = case(root, "costModel", "d2", prefs="odd.jsonl", maxSteps=1)
    alone(cost_case)
    counts = manifest(cost_case)["counts"]
    assert counts["rows.used"] == 59
    assert sum(value for name, value in counts.items() if name.startswith("rows.rejected.")) == 1


def test_labels_that_mean_nothing_are_said_to_show_nothing(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "prefs.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["better_response_id"] = (number // 2) % 2
        row["response_0"], row["response_1"] = "water yes", "water no"
    small_data.write(root / "noise.jsonl", rows)
    reward_case = case(root, "rewardModel", "d3", prefs="noise.jsonl", maxSteps=2)
    alone(reward_case)
    assert any("shows nothing" in note for note in manifest(reward_case)["notes"])
