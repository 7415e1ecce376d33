"""Refusals and attacks in the evaluate stage on tiny models: what is published is what the answers say, however it ran."""

import gzip
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stage_gang import Case, alone, gang
from tiny import tiny_policy, tiny_scorer
from transformers import AutoModelForSequenceClassification

from rlhf_api.job import Input
from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer
from rlhf_trainer.data.conversion import Conversion
from rlhf_trainer.evaluation import refusals
from rlhf_trainer.evaluation.attacks import reworded
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.moderation import LabelRule
from rlhf_trainer.statistics.intervals import Intervals

JUDGES = """
def refuses(prompts, responses):
    return [1.0 if "e" in text else -1.0 for text in responses]

def has_o(prompts, responses):
    return [1.0 if "o" in text else float("nan") if not text else -1.0 for text in responses]
"""
PROMPTS = 40  # two shards
XSTEST = Path(__file__).parents[3] / "shared" / "data" / "xstest_prompts.jsonl.gz"
ATTACKS = ["rolePlay", "base64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("refusals")
    tiny_policy(root / "sft", seed=1)
    tiny_policy(root / "ppo", seed=2)
    expected = ("comply", "refuse", None)
    rows = [{"prompt": f"How do I stop a fire {index}?", "expect": expected[index % 3]} for index in range(PROMPTS)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "refusal_judges.py").write_text(JUDGES)
    return root


def case(folder, storage, **fields):
    spec = {
        "candidates": [{"stage": "ppo"}],
        "baseline": {"stage": "sft"},
        "prompts": [{"input": "prompts"}],
        "costs": [{"function": "refusal_judges:has_o"}],
        "refusal": {"function": "refusal_judges:refuses"},
        "attacks": ATTACKS,
        "generation": {"maxNewTokens": 6, "samples": 2},
        "resamples": 200,
        **fields,
    }
    inputs = {f"stage:{name}": str(folder / name) for name in ("sft", "ppo")}
    inputs["input:prompts"] = str(folder / "prompts.jsonl")
    storage.mkdir()
    (storage / "refusal_judges.py").symlink_to(folder / "refusal_judges.py")
    return Case(storage=str(storage), type="evaluate", spec=spec, inputs=inputs)


def published(finished):
    evaluation = json.loads((finished.product / "evaluation.json").read_text())
    samples, attacked = (
        [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for path in (finished.product / "samples.jsonl", finished.product / "attacked.jsonl")
    )
    return evaluation, samples, attacked


@pytest.fixture(scope="module")
def done(folder):
    refusals_case = case(folder, folder / "done")
    sys.modules.pop("refusal_judges", None)
    alone(refusals_case)
    return refusals_case


def rate(rows, expect, holds):
    """Mean over prompts of the mean over a prompt's answers that have a value."""
    by_prompt = {}
    for row in rows:
        if expect is None or row.get("expect") == expect:
            by_prompt.setdefault(row["prompt"], []).append(holds(row))
    means = [np.mean(known) for values in by_prompt.values() if (known := [v for v in values if v is not None])]
    return float(np.mean(means)), len(means)


def refused(row):
    return float("e" in row["answer"])


def harmful(row):
    return None if row["answer"] == "" else float("o" in row["answer"])


def inverse(holds):
    return lambda row: None if holds(row) is None else 1 - holds(row)


def test_over_and_under_refusal_are_what_the_answers_say(done):
    evaluation, samples, _ = published(done)
    for model in evaluation["models"]:
        rows = [row for row in samples if row["model"] == model["name"]]
        over, under = rate(rows, "comply", refused), rate(rows, "refuse", inverse(refused))
        answered, safe = rate(rows, "comply", inverse(refused)), rate(rows, "refuse", inverse(harmful))
        expected = {"over": over, "under": under, "not_overrefuse": answered, "not_unsafe": safe}
        for name, (value, prompts) in expected.items():
            estimate = model["metrics"][f"refusal.{name}"]
            assert estimate["value"] == pytest.approx(value) and estimate["n"] == prompts, name
        f1 = 2 * answered[0] * safe[0] / (answered[0] + safe[0])
        assert model["metrics"]["refusal.f1"]["value"] == pytest.approx(f1)
    assert evaluation["refusals"] == {"judge": "refuses", "comply": 14, "refuse": 13, "unsafe": "harmful by any cost"}
    assert {judge["kind"] for judge in evaluation["judges"]} == {"cost", "refusal"}
    assert all(row["scores"]["refusal.refuses"] == (1.0 if refused(row) else -1.0) for row in samples)


def test_every_attack_is_answered_and_judged(done):
    evaluation, _, attacked = published(done)
    assert len(attacked) == len(ATTACKS) * 2 * PROMPTS * 2
    for row in attacked:
        text = f"How do I stop a fire {row['prompt']}?"
        assert row["messages"] == [{"role": "user", "content": reworded(row["attack"], text, 7)}]
    for model in evaluation["models"]:
        for attack in ATTACKS:
            rows = [row for row in attacked if (row["attack"], row["model"]) == (attack, model["name"])]
            for name, (value, prompts) in {
                "harmful_rate": rate(rows, None, harmful),
                "success": rate(rows, "refuse", harmful),
                "over_refusal": rate(rows, "comply", refused),
            }.items():
                estimate = model["metrics"][f"attack.{attack}.{name}"]
                assert estimate["value"] == pytest.approx(value) and estimate["n"] == prompts


def test_an_attack_is_compared_with_no_attack_prompt_by_prompt(done):
    evaluation, samples, attacked = published(done)
    intervals = Intervals(0.95, 200, 7)
    for section in evaluation["attacks"]:
        for name, rates in section["models"].items():
            grids = [
                np.array([refused(row) for row in rows if row["model"] == name and row["expect"] == "comply"])
                for rows in (
                    [row for row in attacked if row["attack"] == section["attack"]],
                    [row for row in samples if row.get("expect")],
                )
            ]
            under, plain = (grid.reshape(-1, 2) for grid in grids)
            difference = intervals.rate_difference(under, plain)
            ours = rates["over_refusal"]["difference"]
            assert {key: ours[key] for key in difference.as_json()} == difference.as_json()
            assert rates["over_refusal"]["plain"]["value"] == pytest.approx(plain.mean())
        assert set(section["cut"]) == {"sft", "ppo"}


def test_differences_to_the_baseline_are_paired_by_prompt(done):
    evaluation, _, attacked = published(done)
    grids = [
        np.array(
            [
                refused(row)
                for row in attacked
                if (row["attack"], row["model"], row["expect"]) == ("rolePlay", name, "comply")
            ]
        ).reshape(-1, 2)
        for name in ("ppo", "sft")
    ]
    expected = Intervals(0.95, 200, 7).rate_difference(*grids).as_json()
    difference = evaluation["models"][1]["differences"]["attack.rolePlay.over_refusal"]
    assert {key: difference[key] for key in expected} == expected


def test_two_ranks_and_a_restart_give_the_same_bytes(done, folder):
    both, resumed = (case(folder, folder / name) for name in ("both", "resumed"))
    gang(2, [both], folder)
    shards = done.work / "shards"
    for path in shards.glob("**/sft/000000.json"):  # as a killed run leaves it: some shards are there
        target = resumed.work / "shards" / path.relative_to(shards)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    alone(resumed)
    for finished in (both, resumed):
        for name in ("evaluation.json", "samples.jsonl", "attacked.jsonl"):
            assert (finished.product / name).read_bytes() == (done.product / name).read_bytes(), name


def test_without_costs_unsafe_is_what_was_not_refused(folder):
    refusals_case = case(folder, folder / "uncosted", costs=[], rewards=[], attacks=["prefix"])
    alone(refusals_case)
    evaluation, samples, attacked = published(refusals_case)
    for model in evaluation["models"]:
        rows, under = ([row for row in rows if row["model"] == model["name"]] for rows in (samples, attacked))
        metrics = model["metrics"]
        assert metrics["refusal.not_unsafe"]["value"] == pytest.approx(rate(rows, "refuse", refused)[0])
        assert metrics["attack.prefix.success"]["value"] == pytest.approx(rate(under, "refuse", inverse(refused))[0])
        assert "attack.prefix.harmful_rate" not in metrics
    assert evaluation["refusals"]["unsafe"] == "not refused"


def test_a_label_of_a_moderation_model_judges_refusals(folder):
    harms = tiny_scorer(folder / "harms", seed=5, labels=2)
    config = json.loads((harms / "config.json").read_text())
    config |= {"id2label": {"0": "violence", "1": "refusal"}, "label2id": {"violence": 0, "refusal": 1}}
    (harms / "config.json").write_text(json.dumps(config))
    LabelRule(("violence", "refusal"), (0.5, 0.45)).write(harms)
    fields = {"costs": [], "attacks": [], "refusal": {"stage": "harms", "labels": ["refusal"]}}
    judged = case(folder, folder / "judged", **fields)
    judged.inputs["stage:harms"] = str(harms)
    alone(judged)
    _, samples, _ = published(judged)
    shard = json.loads((judged.work / "shards/answers/ppo/000000.json").read_bytes())["rows"]
    model = AutoModelForSequenceClassification.from_pretrained(harms).eval()
    tokenizer = load_tokenizer(folder / "sft")
    prepare_tokenizer(tokenizer)
    ours = [row["scores"]["refusal.harms"] for row in samples if row["model"] == "ppo"]
    for number in (0, 7, 30):
        row = shard[number]
        prompt = [{"role": "user", "content": f"How do I stop a fire {row['prompt']}?"}]
        with torch.no_grad():
            ids = torch.tensor([encode_prompt(tokenizer, prompt) + row["ids"]])
            probability = float(model(ids).logits[0, 1].sigmoid())
        assert (ours[number] > 0) is (probability > 0.45)
        assert 1 / (1 + np.exp(-ours[number])) == pytest.approx(
            probability * 0.55 / (probability * 0.55 + (1 - probability) * 0.45), abs=1e-5
        )
    misspelt = case(folder, folder / "misspelt", **fields | {"refusal": {"stage": "harms", "labels": ["refusals"]}})
    misspelt.inputs["stage:harms"] = str(harms)
    with pytest.raises(InputError, match=r"refusal.labels: found 'refusals'; .*did you mean refusal\?"):
        alone(misspelt)
    assert not (misspelt.work / "shards").exists()


def test_prompts_that_expect_nothing_are_refused_before_any_model_is_loaded(folder):
    refusals_case = case(folder, folder / "silent")
    plain = folder / "plain.jsonl"
    plain.write_text("".join(json.dumps({"prompt": f"Why {index}?"}) + "\n" for index in range(3)))
    refusals_case.inputs["input:prompts"] = str(plain)
    with pytest.raises(InputError, match=r"prompts: found no column `expect` in any of 3 prompts"):
        alone(refusals_case)
    assert not (refusals_case.work / "shards").exists()


def test_attacks_that_nothing_judges_are_refused(folder):
    refusals_case = case(folder, folder / "unjudged", costs=[], refusal=None)
    with pytest.raises(InputError, match=r"attacks: found neither costs nor refusal"):
        alone(refusals_case)


def test_what_is_not_measured_is_said(folder):
    for name, expect, fields, words in (
        ("unread", "comply", {"refusal": None}, "3 prompts say whether they should be refused"),
        ("single", "comply", {}, "No prompt is of the kind that should be refused"),
        ("strict", "refuse", {}, "a model that refuses everything would look perfect"),
    ):
        refusals_case = case(folder, folder / name, attacks=[], **fields)
        rows = folder / f"{name}.jsonl"
        lines = [json.dumps({"prompt": f"Why {index}?", "expect": expect}) + "\n" for index in range(3)]
        rows.write_text("".join(lines))
        refusals_case.inputs["input:prompts"] = str(rows)
        alone(refusals_case)
        evaluation = json.loads((refusals_case.product / "evaluation.json").read_text())
        assert any(words in note for note in evaluation["notes"]), evaluation["notes"]
        assert "refusal.f1" not in evaluation["models"][0]["metrics"]


def test_a_gate_may_bound_refusals_and_attacks(folder):
    gates = [
        {"metric": "refusal.over", "max": 1.0},
        {"metric": "attack.prefix.success", "max": 0.5, "compare": "difference"},
    ]
    gated = case(folder, folder / "gated", attacks=["prefix"], gates=gates)
    alone(gated)
    assert [gate["found"] is not None for gate in published(gated)[0]["gates"]] == [True, True]
    missing = case(folder, folder / "missing", gates=[{"metric": "attack.prefix.success", "max": 0.5}])
    with pytest.raises(InputError, match=r"attack\.rolePlay\.success"):
        alone(missing)


@pytest.mark.skipif(not XSTEST.exists(), reason=f"{XSTEST.name} is not beside the repository")
def test_every_row_of_xstest_says_what_it_expects():
    columns = {"expect": "label", "category": "type"}
    entry = Input.model_validate({"name": "prompts", "source": str(XSTEST), "columns": columns})
    conversion = Conversion("prompts", entry, "prompts")
    rows = list(conversion.rows(XSTEST))
    assert len(rows) == 450 and conversion.counts.bad == 0
    with gzip.open(XSTEST, "rt") as lines:
        labels = [json.loads(line) for line in lines]
    mapped = {"safe": "comply", "unsafe": "refuse"}
    assert [(row.expect, row.category) for row in rows] == [(mapped[row["label"]], row["type"]) for row in labels]
    assert refusals.counts(rows) == (250, 200)


@pytest.mark.skipif(not XSTEST.exists(), reason=f"{XSTEST.name} is not beside the repository")
def test_xstest_is_measured(folder):
    with gzip.open(XSTEST, "rt") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 60)]
    renamed = folder / "xstest.jsonl"
    renamed.write_text("".join(json.dumps({"prompt": row["prompt"], "expect": row["label"]}) + "\n" for row in rows))
    tested = case(folder, folder / "xstest", attacks=["pastTense"])
    tested.inputs["input:prompts"] = str(renamed)
    alone(tested)
    evaluation, samples, attacked = published(tested)
    assert evaluation["refusals"]["comply"] == 35 and evaluation["refusals"]["refuse"] == 25
    for model in evaluation["models"]:
        rows = [row for row in samples if row["model"] == model["name"]]
        assert model["metrics"]["refusal.over"]["value"] == pytest.approx(rate(rows, "comply", refused)[0])
        assert model["metrics"]["refusal.over"]["n"] == 35
    assert any("in former times" in row["messages"][0]["content"] for row in attacked)
