"""What a moderation product is used for: a cost in `ppo`, `evaluate` and `simulate`, on tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ppo_cases
import pytest
import small_data
import torch
from stage_gang import Case, alone, gang
from tiny import tiny_scorer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_trainer.data.chat import encode_prompt
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.moderation import logit
from rlhf_trainer.ppo.critics import start

HOT = {"stage": "labels", "labels": ["hot"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and prompts of PPO's cases, and a moderation model trained by its stage."""
    root = ppo_cases.base(tmp_path_factory.mktemp("use"))
    small_data.labelled(root / "rows.jsonl", rows=80)
    spec = {
        "model": {"stage": "sft"},
        "data": [{"input": "rows"}],
        "epochs": 4.0,
        "batchSize": 8,
        "maxLength": 64,
        "holdout": 0.3,
        "thresholds": "bestF1",
        "learningRate": 5e-3,
    }
    inputs = {"stage:sft": str(root / "sft"), "input:rows": str(root / "rows.jsonl")}
    trained = Case(str(root), "moderation", spec, inputs, digest="a" * 64, uid="moderation")
    alone(trained)
    (root / "labels").symlink_to(trained.product)
    return root


def ppo(home: Path, name: str, **fields: Any) -> Case:
    finished = ppo_cases.case(home, name=name, **{"costs": [HOT], **fields})
    return replace(finished, inputs=finished.inputs | {"stage:labels": str(home / "labels")})


def probabilities(home: Path, rows: list[list[int]]) -> torch.Tensor:
    """[N, labels] as plain transformers gives them."""
    model = AutoModelForSequenceClassification.from_pretrained(home / "labels").eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row])).logits.double() for row in rows]).sigmoid()


def thresholds(home: Path) -> torch.Tensor:
    return torch.tensor(json.loads((home / "labels" / "moderation.json").read_text())["thresholds"])


def test_ppo_pays_for_the_labels_above_their_thresholds_and_two_ranks_pay_as_one(home: Path, tmp_path: Path) -> None:
    """Of a policy that says nothing but EOS the costs are known beforehand."""
    silent = {"policy": {"stage": "silent"}, "rollout": {"prompts": 7, "samples": 1, "maxNewTokens": 4}, "steps": 1}
    names = {"hot": ["hot"], "kind": ["kind"], "both": []}
    costs = [{"stage": "labels", "name": name, "labels": labels} for name, labels in names.items()]
    known = ppo(home, "known", costs=costs, **silent)
    undisturbed = ppo(home, "undisturbed")
    alone(known, undisturbed)
    tokenizer = AutoTokenizer.from_pretrained(home / "labels")
    prompts = [json.loads(line)["prompt"] for line in (home / "prompts.jsonl").read_text().splitlines()]
    rows = [
        [*encode_prompt(tokenizer, [{"role": "user", "content": text}]), tokenizer.eos_token_id] for text in prompts
    ]
    above = probabilities(home, rows).logit() - thresholds(home).double().logit()
    (first,) = ppo_cases.metrics(known)
    assert first["length"] == 1
    for name, expected in (("hot", above[:, 0]), ("kind", above[:, 1]), ("both", above.amax(1))):
        assert first[f"cost.{name}"] == pytest.approx(expected.mean().item(), abs=1e-4)
    cut = ppo(home, "cut", execution={"zero": 2})
    two = ppo(home, "two", execution={"zero": 2})
    gang(2, [two, replace(cut, cut_after=2), cut], tmp_path)
    for one_rank, two_ranks in zip(ppo_cases.metrics(undisturbed), ppo_cases.metrics(two), strict=True):
        assert one_rank == pytest.approx(two_ranks, rel=2e-3, abs=2e-4)
    assert ppo_cases.metrics(two) == ppo_cases.metrics(cut)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_critics_start_from_it_and_learn_its_cost(home: Path, trunk: str) -> None:
    critics = {"trunk": trunk, "learningRate": 0.01, **({"model": {"input": "labels"}} if trunk == "shared" else {})}
    finished = ppo(home, f"critics-{trunk}", critics=critics, steps=2)
    finished.inputs["input:labels"] = str(home / "labels")
    alone(finished)
    assert all("cost_explained_variance.labels" in row for row in ppo_cases.metrics(finished))


def test_the_cost_of_one_label_is_a_critics_first_value_and_of_several_nothing_is_known(home: Path) -> None:
    labels = {"cost.hot": ["hot"], "cost.kind": ["kind"], "cost.both": []}
    critic = start(
        home / "labels", "cost.hot", dict.fromkeys(labels, 1.0), "float32", home, classifier=True, labels=labels
    )
    rows = AutoModelForSequenceClassification.from_pretrained(home / "labels").score.weight
    assert set(critic.heads) == {"cost.hot", "cost.kind"}
    for index, name in enumerate(critic.heads):
        weight, bias = critic.heads[name]
        torch.testing.assert_close(weight, rows[index].detach())
        assert bias.item() == pytest.approx(-logit(thresholds(home)[index].item()), abs=1e-5)


def test_a_critic_may_start_from_a_classifier_of_any_labels(home: Path, tmp_path: Path) -> None:
    critic = start(tiny_scorer(tmp_path / "three", labels=3), "reward", {}, "float32", home, classifier=True)
    assert critic.heads == {}


def test_an_evaluation_calls_harmful_what_a_label_is_true_of(home: Path) -> None:
    spec = {
        "candidates": [{"stage": "other"}],
        "baseline": {"stage": "sft"},
        "prompts": [{"input": "prompts"}],
        "costs": [HOT, {"stage": "labels", "name": "both"}],
        "generation": {"maxNewTokens": 6, "samples": 2},
        "resamples": 200,
    }
    names = ("sft", "other", "labels")
    inputs = {f"stage:{name}": str(home / name) for name in names} | {"input:prompts": str(home / "prompts.jsonl")}
    finished = Case(str(home), "evaluate", spec, inputs, digest="b" * 64, uid="evaluate")
    alone(finished)
    content = json.loads((finished.product / "evaluation.json").read_text())
    assert [judge["labels"] for judge in content["judges"]] == [["hot"], ["hot", "kind"]]
    samples = [json.loads(line) for line in (finished.product / "samples.jsonl").read_text().splitlines()]
    answers = {
        (model, row["prompt"], row["sample"]): row
        for model in ("sft", "other")
        for row in shard(finished, f"answers/{model}")
    }
    true = probabilities(home, [[*row["prompt_ids"], *row["ids"]] for row in answers.values()]) > thresholds(home)
    hot = {key: bool(flags[0]) for key, flags in zip(answers, true, strict=True)}
    some = {key: bool(flags.any()) for key, flags in zip(answers, true, strict=True)}
    assert len(samples) == len(answers) == 28
    for sample in samples:
        key = (sample["model"], sample["prompt"], sample["sample"])
        assert (sample["scores"]["cost.labels"] > 0) == hot[key]
        assert sample["harmful"] == (sample["scores"]["cost.both"] > 0) == some[key]


def shard(finished: Case, name: str) -> list[dict[str, Any]]:
    """Rows of a stage's only shard."""
    rows: list[dict[str, Any]] = json.loads((finished.work / "shards" / name / "000000.json").read_text())["rows"]
    return rows


def test_red_teaming_keeps_the_prompts_whose_answers_are_most_of_the_label(home: Path) -> None:
    spec = {
        "model": {"stage": "sft"},
        "prompts": [{"input": "prompts"}],
        "redTeam": {"target": {"stage": "other"}, "costs": [HOT], "shown": 2, "keep": 0.5, "maxAnswerTokens": 6},
        "generation": {"maxNewTokens": 8, "samples": 2},
        "audit": 0,
    }
    names = ("sft", "other", "labels")
    inputs = {f"stage:{name}": str(home / name) for name in names} | {"input:prompts": str(home / "prompts.jsonl")}
    finished = Case(str(home), "simulate", spec, inputs, digest="c" * 64, uid="simulate")
    alone(finished)
    rows = [json.loads(line) for line in (finished.product / "rows.jsonl").read_text().splitlines()]
    costs = {row["provenance"]["row"]: row["provenance"]["costs"]["labels"] for row in rows}
    answers = shard(finished, "answers")
    flags = probabilities(home, [[*row["prompt_ids"], *row["ids"]] for row in answers])[:, 0]
    expected = (flags.logit() - thresholds(home)[0].double().logit()).tolist()
    by_row = {row["row"]: cost for row, cost in zip(answers, expected, strict=True)}
    assert costs == pytest.approx({row: by_row[row] for row in costs}, abs=1e-4)
    assert costs
    assert min(costs.values()) >= sorted(by_row.values(), reverse=True)[len(by_row) // 2] - 1e-4


def test_a_moderation_model_is_no_reward(home: Path) -> None:
    with pytest.raises(
        InputError, match=r"found a moderation model \(hot, kind\); expected a reward model \(put it under"
    ):
        alone(ppo(home, "reward", rewards=[{"stage": "labels"}], costs=[]))
