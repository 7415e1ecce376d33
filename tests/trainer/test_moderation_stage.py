"""The `moderation` stage as a whole, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
import torch
from stage_gang import Case, alone
from tiny import tiny_policy, tiny_scorer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rlhf_trainer.data.chat import encode_row
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.scorer import load_scorer

SPEC = {
    "model": {"input": "base"},
    "data": [{"input": "rows"}],
    "epochs": 10.0,
    "batchSize": 8,
    "maxLength": 64,
    "holdout": 0.3,
    "learningRate": 5e-3,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moderation")
    tiny_policy(folder / "base")
    small_data.labelled(folder / "rows.jsonl", rows=80)
    return folder


@pytest.fixture(scope="module")
def trained(root: Path) -> Case:
    finished = case(root, "a1", evalEvery=10, thresholds="bestF1", classWeights="balanced")
    alone(finished)
    return finished


def case(root: Path, digest: str, model: str = "base", rows: str = "rows.jsonl", **spec: Any) -> Case:
    inputs = {"input:base": str(root / model), "input:rows": str(root / rows)}
    return Case(str(root / "storage"), "moderation", {**SPEC, **spec}, inputs, {}, digest.rjust(64, "0"), uid=digest)


def manifest(finished: Case) -> dict[str, Any]:
    return json.loads((finished.product / "manifest.json").read_text())  # type: ignore[no-any-return]


def steps(finished: Case) -> list[dict[str, float]]:
    return [json.loads(line) for line in (finished.work / "metrics.jsonl").read_text().splitlines()]


def rule(finished: Case) -> dict[str, Any]:
    return json.loads((finished.product / "moderation.json").read_text())  # type: ignore[no-any-return]


def test_it_learns_every_label_and_is_judged_beside_guesses(trained: Case) -> None:
    published = manifest(trained)
    metrics, counts = published["metrics"], published["counts"]
    assert (counts["labels"], counts["rows.train"], counts["rows.heldout"]) == (2, 56, 24)
    for label in ("hot", "kind"):
        judged = metrics[f"label.{label}"]
        assert judged["auroc"]["low"] > max(0.5, judged["auroc_length"]["value"])
        assert judged["f1"]["value"] > judged["f1_always_true"]
        assert 0 <= judged["ece"]["value"] <= 1
        assert judged["rows"] < 24  # of some the label is not known
    assert metrics["macro"]["labels_measured"] == 2
    assert steps(trained)[-1]["loss"] < steps(trained)[0]["loss"]
    assert steps(trained)[-1]["label_accuracy"] > steps(trained)[0]["label_accuracy"]
    assert [line["step"] for line in steps(trained) if "heldout_auroc" in line] == list(range(10, 71, 10))


def test_the_product_loads_in_plain_transformers_and_gives_the_same_labels(root: Path, trained: Case) -> None:
    """Padded on either side, and through the pipeline."""
    model = AutoModelForSequenceClassification.from_pretrained(trained.product).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.product)
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "hot", 1: "kind"}
    written = rule(trained)
    assert (written["labels"], written["kind"], written["version"]) == (["hot", "kind"], "moderation", "1")
    rows = [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]
    chats = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}] for row in rows
    ]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    logits = []
    for chat in chats:
        ids = encode_row(tokenizer, tuple(chat[:1]), chat[1]["content"], 64).ids  # type: ignore[arg-type]
        with torch.no_grad():
            logits.append(model(input_ids=torch.tensor([ids])).logits[0])
    expected = torch.stack(logits)
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            assert torch.allclose(model(**batch).logits, expected, atol=1e-4)
    labels = (torch.sigmoid(expected) >= torch.tensor(written["thresholds"])).tolist()
    flags = [list(row["labels"].values()) for row in rows]
    right = [a == b for got, known in zip(labels, flags, strict=True) for a, b in zip(got, known, strict=True)]
    assert sum(right) > 0.95 * (len(right) - 20)  # 20 are not known
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    (scores,) = classify([rendered[0]], add_special_tokens=False)
    by_label = {entry["label"]: entry["score"] for entry in scores}
    assert [by_label[name] for name in ("hot", "kind")] == pytest.approx(torch.sigmoid(expected[0]).tolist(), abs=1e-4)


def test_the_first_loss_is_that_of_the_given_classifier_by_hand(root: Path) -> None:
    """All rows in one step, the head kept: cross entropies of known labels over their number, weighted where true."""
    base = tiny_scorer(root / "classifier", labels=2)
    config = json.loads((base / "config.json").read_text())
    config |= {"id2label": {"0": "hot", "1": "kind"}, "label2id": {"hot": 0, "kind": 1}}
    (base / "config.json").write_text(json.dumps(config))
    first = case(root, "a2", base.name, batchSize=80, holdout=0.0, maxSteps=1, classWeights="balanced")
    alone(first)
    rows = [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]
    model = AutoModelForSequenceClassification.from_pretrained(base).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    flags = {name: [row["labels"][name] for row in rows] for name in ("hot", "kind")}
    weights = [flags[name].count(False) / flags[name].count(True) for name in flags]
    losses = []
    for row in rows:
        prompt = ({"role": "user", "content": row["prompt"]},)
        ids = encode_row(tokenizer, prompt, row["response"], 64).ids  # type: ignore[arg-type]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        for logit, flag, weight in zip(logits, row["labels"].values(), weights, strict=True):
            if flag is not None:
                losses.append(weight * np.log1p(np.exp(-logit)) if flag else np.log1p(np.exp(logit)))
    assert len(losses) == 140  # of 160, 20 are not known
    assert weights[0] != weights[1]
    assert steps(first)[0]["loss"] == pytest.approx(float(np.mean(losses)), rel=1e-4)


def test_it_trains_on_from_another_with_the_same_labels_and_anew_with_others(root: Path, trained: Case) -> None:
    again = case(root, "a3", str(trained.product), maxSteps=1)
    fewer = case(root, "a4", str(trained.product), maxSteps=1, labels=["kind", "hot"])
    alone(again, fewer)
    assert steps(again)[0]["label_accuracy"] > 0.9
    assert steps(again)[0]["loss"] < steps(fewer)[0]["loss"]


def test_labels_of_the_spec_come_in_its_order_and_rows_without_them_are_counted(root: Path) -> None:
    one_label = case(root, "b1", labels=["kind"], maxSteps=1, threshold=0.3)
    alone(one_label)
    assert (rule(one_label)["labels"], rule(one_label)["thresholds"]) == (["kind"], [0.3])
    counts = manifest(one_label)["counts"]
    assert (counts["rows.used"], counts["rows.without_label"]) == (80, 10)
    assert counts["rows.train"] + counts["rows.heldout"] == 70


def test_a_list_of_labels_makes_the_others_false(root: Path) -> None:
    rows = [{"prompt": f"ask {n}", "response": "fire", "labels": ["hot"] if n % 2 else []} for n in range(12)]
    small_data.write(root / "lists.jsonl", rows)
    lists = case(root, "b2", rows="lists.jsonl", maxSteps=1, holdout=0.0)
    alone(lists)
    published = manifest(lists)
    assert published["counts"]["rows.train"] == 12
    assert published["notes"][-1] == "no answer is held out: how right the labels are is unknown"


def test_a_label_without_a_true_row_is_said_not_to_be_learned(root: Path) -> None:
    flags = {"hot": False}
    rows = [{"prompt": f"ask {n}", "response": "fire", "labels": flags | {"odd": n % 2 == 0}} for n in range(12)]
    small_data.write(root / "flat.jsonl", rows)
    flat = case(root, "b3", rows="flat.jsonl", maxSteps=1, classWeights="balanced")
    alone(flat)
    notes = manifest(flat)["notes"]
    assert "label hot: 0 true and 8 false training rows; what one side alone shows cannot be learned" in notes
    assert manifest(flat)["metrics"]["label.hot"]["auroc"]["value"] is None


def test_a_label_that_no_row_names_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"labels\[1\]: found cold, which no row names; expected .*: hot, kind"):
        alone(case(root, "c1", labels=["hot", "cold"]))


def test_texts_in_place_of_labels_are_refused(root: Path) -> None:
    rows = [{"prompt": "ask", "response": "fire", "labels": f"a sentence number {n}"} for n in range(300)]
    small_data.write(root / "texts.jsonl", rows)
    with pytest.raises(InputError, match=r"data: found 300 labels .*expected 1 to 256"):
        alone(case(root, "c2", rows="texts.jsonl"))


def test_bad_rows_are_refused_by_their_place(root: Path) -> None:
    small_data.write(root / "bad.jsonl", [{"prompt": "ask", "response": "fire", "labels": {"hot": "yes"}}])
    with pytest.raises(InputError, match=r"bad.jsonl:1: labels.hot: found 'yes', expected true, false"):
        alone(case(root, "c3", rows="bad.jsonl"))


def test_as_a_cost_it_is_above_zero_where_a_label_is_true(root: Path, trained: Case) -> None:
    """The cost of a moderation product, of all labels or of one, against the labels that plain transformers gives."""
    tokenizer = AutoTokenizer.from_pretrained(trained.product)
    classifier = AutoModelForSequenceClassification.from_pretrained(trained.product).eval()
    answers = [["It is hot", "kind words", "so"][index % 3] * (1 + index // 3) for index in range(12)]
    rows = [encode_row(tokenizer, [{"role": "user", "content": "Say"}], answer, 64) for answer in answers]
    thresholds = torch.tensor(rule(trained)["thresholds"])
    for labels in ([], ["hot"], ["kind", "hot"]):
        scorer = load_scorer(trained.product, "float32", kind="cost", labels=labels)
        chosen = [index for index, name in enumerate(rule(trained)["labels"]) if not labels or name in labels]
        for row in rows:
            ids = torch.tensor([row.ids])
            with torch.no_grad():
                cost, disagreement = scorer.combined(ids, torch.ones_like(ids))
                probabilities = classifier(input_ids=ids).logits.float().sigmoid()[0]
            above = (probabilities.logit() - thresholds.logit())[chosen]
            assert cost.item() == pytest.approx(above.max().item(), abs=1e-4)
            assert (cost.item() > 0) == bool((probabilities > thresholds)[chosen].any())
            assert disagreement.item() == 0


def test_labels_of_a_cost_are_those_of_the_model(root: Path, trained: Case, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found label 'hott'; expected one of hot, kind \(did you mean hot\?\)"):
        load_scorer(trained.product, "float32", kind="cost", labels=["hott"])
    tiny_scorer(tmp_path / "cost")
    with pytest.raises(InputError, match="expected a moderation model, which has labels"):
        load_scorer(tmp_path / "cost", "float32", kind="cost", labels=["hot"])
