"""The simulate stage on tiny models: every method's rows, where they come from, and that a restart loses and repeats none."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import rules_cases
import torch
from stage_gang import Case, CutOff, alone, gang
from tiny import tiny_policy, tiny_scorer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_api.fields import DataRef
from rlhf_trainer.data.load import load_completions
from rlhf_trainer.exits import InputError, Stopped

PROMPTS = 70  # two shards
METHODS = {
    "rlcd": {"task": "harmlessness"},
    "rlaif": {},
    "rlcdRescore": {"task": "outlines"},
    "contextDistillation": {"task": "helpfulness"},
    "completions": {},
    "redTeam": {"target": {"stage": "target"}, "costs": [{"function": "simulate_judges:letters"}], "keep": 0.5},
}
JUDGES = """
def letters(prompts, responses):
    return [len(set(text)) - 3.0 for text in responses]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulate")
    tiny_policy(root / "base", seed=1)
    tiny_policy(root / "judge", seed=2)
    tiny_policy(root / "target", seed=3)
    rows = []
    for index in range(PROMPTS):
        turns = [{"role": "user", "content": f"How do I stop fire {index}?"}]
        if index % 3 == 0:
            turns += [{"role": "assistant", "content": "Call for help."}, {"role": "user", "content": "And then?"}]
        kind = ["comply", "Hard Refuse", "Safe Refuse 1"][index % 3]
        rows.append({"prompt": turns, "category": ["home", "work"][index % 2], "response_type": kind})
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "simulate_judges.py").write_text(JUDGES)
    return root


def case(folder, storage, method, **fields):
    spec = {
        "model": {"input": "base"},
        "prompts": [{"input": "prompts"}],
        method: METHODS[method],
        "generation": {"maxNewTokens": 6, "maxPromptTokens": 128},
        **fields,
    }
    inputs = {"input:base": "base", "stage:target": "target", "stage:judge": "judge", "input:prompts": "prompts.jsonl"}
    storage.mkdir()
    (storage / "simulate_judges.py").symlink_to(folder / "simulate_judges.py")
    return Case(
        storage=str(storage),
        type="simulate",
        spec=spec,
        inputs={key: str(folder / name) for key, name in inputs.items()},
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(one):
    return lines(one.product / "rows.jsonl")


def manifest_of(one):
    return json.loads((one.product / "manifest.json").read_text())


@pytest.fixture(scope="module", params=METHODS)
def done(folder, request):
    one = case(folder, folder / f"done-{request.param}", request.param)
    alone(one)
    return request.param, one


def test_every_row_is_kept_set_aside_or_counted(done):
    method, one = done
    counts = manifest_of(one)["counts"]
    a_row = 4 if method == "completions" else 1
    made = PROMPTS
    dropped = sum(count for name, count in counts.items() if name.startswith("rows.rejected."))
    assert counts["rows.made"] == made == counts["rows.kept"] + dropped
    assert counts["rows.written"] + counts["rows.audit"] == counts["rows.kept"] * a_row
    assert len(rows_of(one)) == counts["rows.written"]
    assert len(lines(one.product / "audit.jsonl")) == counts["rows.audit"] == counts["rows.kept"] // 10 * a_row


def test_a_row_says_what_made_it(done):
    method, one = done
    for row in rows_of(one):
        told = row["provenance"]
        assert told["method"] == method and told["seed"] == 7
        assert told["model"]["source"] == "input:base" and len(told["model"]["digest"]) == 64
        assert row["prompt"][-1]["role"] == "user" and 0 <= told["row"] < PROMPTS
        if method != "redTeam":
            assert row["prompt"][-1]["content"] in ("And then?", f"How do I stop fire {told['row']}?")
            assert row["category"] == ["home", "work"][told["row"] % 2]
    numbers = Counter(row["provenance"]["row"] for row in rows_of(one) + lines(one.product / "audit-key.jsonl"))
    assert set(numbers.values()) == {4 if method == "completions" else 1}


def test_the_phrase_is_asked_for_and_never_kept(done):
    method, one = done
    phrases = {ask[name] for ask in content_of(one).get("asks", []) for name in ("positive", "negative")} - {""}
    for row in rows_of(one):
        made = json.dumps([row[name] for name in ("prompt", "chosen", "rejected", "completion") if name in row])
        assert not any(phrase in made for phrase in phrases)
    if method in ("rlcd", "contextDistillation"):
        name = "chosen" if method == "rlcd" else "phrase"
        positive = {ask["positive"] for ask in content_of(one)["asks"]}
        assert {row["provenance"][name] for row in rows_of(one)} <= positive


def test_a_soft_label_is_what_the_judge_s_log_odds_say(done):
    method, one = done
    if method not in ("rlaif", "rlcdRescore"):
        assert {row.get("weight", 1.0) for row in rows_of(one)} == {1.0}
        return
    for row in rows_of(one):
        first, second = row["provenance"]["log_odds"]
        p = 1 / (1 + math.exp(-(first - second) / 2))
        assert row["weight"] == pytest.approx(max(p, 1 - p)) and 0.5 <= row["weight"] <= 1
        assert (row["provenance"]["first"] == "chosen") == (p >= 0.5)


def content_of(one):
    return json.loads((one.product / "simulation.json").read_text())


def files_of(one):
    return {
        path.name: path.read_bytes() for path in one.product.iterdir() if path.suffix == ".jsonl" or "sim" in path.name
    }


class Killed:
    """Lets so many shards be written; at the next the process is gone, before or after the rename."""

    def __init__(self, write, left, after):
        self.write, self.left, self.after = write, left, after

    def __call__(self, path, content):
        self.left -= 1
        if self.left < 0 and not self.after:
            path.with_suffix(".tmp").parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".tmp").write_bytes(content[: len(content) // 2])
            raise CutOff
        self.write(path, content)
        if self.left < 0:
            raise CutOff


@pytest.mark.parametrize("method", ["rlcdRescore", "redTeam"])
def test_killed_at_any_shard_it_ends_in_the_same_bytes(folder, method, monkeypatch):
    from rlhf_trainer.evaluation import shards

    whole = case(folder, folder / f"whole-{method}", method)
    alone(whole)
    written = len(list((whole.work / "shards").rglob("*.json")))
    assert written == {"rlcdRescore": 4, "redTeam": 6}[method]
    write = shards.write_atomically
    for number in range(written):
        for after in (False, True):
            one = case(folder, folder / f"killed-{method}-{number}-{after}", method)
            monkeypatch.setattr(shards, "write_atomically", Killed(write, number, after))
            with pytest.raises(CutOff):
                alone(one)
            assert not one.product.exists()
            monkeypatch.setattr(shards, "write_atomically", write)
            alone(one)
            assert files_of(one) == files_of(whole), (number, after)


def test_two_ranks_make_the_same_rows(folder):
    names = ("rlaif", "completions")
    both = [case(folder, folder / f"both-{name}", name) for name in names]
    for one in both:
        one.digest = "2" * 64
    gang(2, both, folder)
    for name, one in zip(names, both, strict=True):
        single = case(folder, folder / f"single-{name}", name)
        alone(single)
        found, expected = files_of(one), files_of(single)
        found.pop("metrics.jsonl"), expected.pop("metrics.jsonl")
        assert found == expected


def test_another_audit_needs_no_answer_again_and_another_seed_does(folder, monkeypatch):
    from rlhf_trainer.simulation import runner

    first = case(folder, folder / "first", "rlcd")
    alone(first)
    calls = []
    sampled = runner.sample
    monkeypatch.setattr(runner, "sample", lambda *a, **k: calls.append(1) or sampled(*a, **k))
    for change, again in (({"audit": 2}, 0), ({"rlcd": {"task": "outlines"}}, 2)):
        other = case(folder, folder / f"other-{again}", "rlcd", **change)
        for path in (first.work / "shards").rglob("*.json"):
            target = other.work / path.relative_to(first.work)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        calls.clear()
        alone(other)
        assert len(calls) == again
    assert len(lines(folder / "other-0/products" / first.product.name / "audit.jsonl")) == 2


def test_stopped_between_shards_it_keeps_what_it_has(folder, monkeypatch):
    from rlhf_trainer.context import StageContext

    one = case(folder, folder / "stopped", "rlcd")
    asked = iter([False, True])
    monkeypatch.setattr(StageContext, "stop_requested", lambda self: next(asked))
    with pytest.raises(Stopped, match="what was sampled is kept"):
        alone(one)
    assert len(list((one.work / "shards").rglob("*.json"))) == 1 and not one.product.exists()


def test_what_was_simulated_is_learned_from(folder, tmp_path):
    """Pairs by a reward model with their soft labels, answers by fine-tuning, prompts by PPO, completions by their reader."""
    made = {}
    for method in ("rlaif", "contextDistillation", "redTeam", "completions"):
        made[method] = case(folder, tmp_path / method, method)
        alone(made[method])

    def learn(kind, method, spec):
        inputs = {"input:base": str(folder / "base"), "stage:made": str(made[method].product)}
        one = Case(storage=str(tmp_path / f"{kind}-{method}"), type=kind, spec=spec, inputs=inputs)
        alone(one)
        return manifest_of(one)

    base, data = {"model": {"input": "base"}, "maxSteps": 2, "batchSize": 4}, {"data": [{"stage": "made"}]}
    rows = rows_of(made["rlaif"])
    told = learn("rewardModel", "rlaif", {**base, **data, "test": [{"stage": "made"}]})
    assert told["counts"]["rows.read"] == len(rows) == told["counts"]["test.read"]
    assert told["metrics"]["test"]["accuracy"]["n"] == len(rows)
    assert told["counts"]["test.seen_prompts"] > 0 and any("was trained on" in note for note in told["notes"])
    for method in ("contextDistillation", "rlaif"):
        found = learn("sft", method, {**base, **data})
        assert found["counts"]["rows.read"] == len(rows_of(made[method]))
    ppo = {
        "policy": {"input": "base"},
        "rewards": [{"function": "simulate_judges:letters"}],
        "prompts": [{"stage": "made"}],
        "steps": 1,
        "rollout": {"prompts": 4, "maxNewTokens": 4},
    }
    (tmp_path / "ppo-redTeam").mkdir()
    (tmp_path / "ppo-redTeam" / "simulate_judges.py").symlink_to(folder / "simulate_judges.py")
    assert learn("ppo", "redTeam", ppo)["counts"]["prompts.used"] == len(rows_of(made["redTeam"]))
    context = SimpleNamespace(input=lambda ref: SimpleNamespace(path=str(made["completions"].product), input=None))
    found, _ = load_completions(context, [DataRef(stage="made")])
    assert Counter(one.rank for one in found) == {0: 63, 1: 126, 2: 63}
    assert {one.response_type for one in found} == {"comply", "hard_refuse", "safe_refuse_1"}


def test_rules_are_fitted_on_simulated_completions(folder, tmp_path):
    home = rules_cases.base(tmp_path / "home")
    rows = [{"prompt": f"How do I stop fire {index}?", "response_type": "comply"} for index in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = case(folder, tmp_path / "made", "completions")
    made.inputs["input:prompts"] = str(tmp_path / "prompts.jsonl")
    alone(made)
    fitted = rules_cases.case(home, completions=[{"stage": "made"}], inputs={"stage:made": str(made.product)})
    alone(fitted)
    told = json.loads((fitted.product / "rules.json").read_text())
    assert set(told["weights"]) == {"comply"} and manifest_of(fitted)["counts"]["rows.used"] == len(rows_of(made)) == 44


def test_soft_labels_weigh_the_loss_of_the_pairs(tmp_path, folder):
    """The first step's loss of a reward model on rows of weight w is the w-weighted Bradley-Terry loss, computed apart."""
    texts = [("Call for help.", "Run."), ("Wait.", "Leave me."), ("I will stop the fire.", "No.")]
    weights = [0.5, 0.8, 1.0]
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What should I do {index}?"}],
            "chosen": [{"role": "assistant", "content": a}],
            "rejected": [{"role": "assistant", "content": b}],
            "weight": weight,
            "provenance": {"method": "rlaif"},
        }
        for index, ((a, b), weight) in enumerate(zip(texts, weights, strict=True))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_scorer(tmp_path / "start", seed=9)
    spec = {
        "model": {"input": "start"},
        "data": [{"input": "rows"}],
        "batchSize": 3,
        "holdout": 0,
        "regularization": 0,
        "maxSteps": 1,
    }
    inputs = {"input:start": str(tmp_path / "start"), "input:rows": str(tmp_path / "rows.jsonl")}
    one = Case(storage=str(tmp_path / "store"), type="rewardModel", spec=spec, inputs=inputs)
    alone(one)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "start").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start")
    expected = 0.0
    for row in rows:
        scores = []
        for name in ("chosen", "rejected"):
            text = tokenizer.apply_chat_template([*row["prompt"], *row[name]], tokenize=False).removesuffix("\n")
            with torch.no_grad():
                scores.append(float(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits))
        better = 1 / (1 + math.exp(scores[1] - scores[0]))
        expected -= row["weight"] * math.log(better) + (1 - row["weight"]) * math.log(1 - better)
    first = lines(one.product / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(expected / 3, abs=1e-5)


def test_prompts_without_a_response_type_are_left_out_of_completions(folder, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One?"}\n{"prompt": "Two?", "response_type": "comply"}\n')
    one = case(folder, tmp_path / "some", "completions")
    one.inputs["input:prompts"] = str(path)
    alone(one)
    assert len(rows_of(one)) == 4 and manifest_of(one)["counts"]["rows.rejected.no_response_type"] == 1
    path.write_text('{"prompt": "One?"}\n')
    none = case(folder, tmp_path / "none", "completions")
    none.inputs["input:prompts"] = str(path)
    with pytest.raises(InputError, match="no prompt has a response type"):
        alone(none)


def test_nothing_left_is_an_input_error_that_says_why(folder, tmp_path, monkeypatch):
    from rlhf_trainer.simulation import runner

    monkeypatch.setattr(runner, "said", lambda text, chat: ("", False))
    with pytest.raises(InputError, match=r"dropped \{'empty answer': 70\}"):
        alone(case(folder, tmp_path / "empty", "rlcd"))
