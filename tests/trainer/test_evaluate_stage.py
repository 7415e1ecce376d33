"""The evaluate stage on tiny models: what it publishes, that it is the same however it ran, and how it fails."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from stage_gang import Case, alone, gang
from tiny import tiny_policy, tiny_scorer
from transformers import AutoModelForSequenceClassification

from rlhf_trainer.data.rows import Prompt, Where
from rlhf_trainer.evaluation.answers import divergence
from rlhf_trainer.evaluation.judges import ModelJudge
from rlhf_trainer.evaluation.names import model_names
from rlhf_trainer.evaluation.shards import Shards
from rlhf_trainer.exits import GuardTripped, InputError, Stopped
from rlhf_trainer.models.scorer import Rule
from rlhf_trainer.stages.evaluate import reward_weights, shown

JUDGES = """
CALLS = []

def letters(prompts, responses):
    CALLS.append(len(responses))
    return [len(set(text)) / 10 for text in responses]

def has_e(prompts, responses):
    return [1.0 if "e" in text else -1.0 for text in responses]

def sometimes(prompts, responses):
    return [float(len(text)) for text in responses]
"""
PROMPTS = 40  # two shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    tiny_policy(root / "sft", seed=1)
    tiny_policy(root / "ppo", seed=2)
    tiny_policy(root / "other", seed=3, words=["zebra", "quilt"])
    tiny_scorer(root / "reward", seed=4)
    rows = [
        {"prompt": f"How do I stop a fire {index}?", "category": ["home", "work"][index % 2]}
        for index in range(PROMPTS)
    ]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "evaluate_judges.py").write_text(JUDGES)
    return root


def case(folder, storage, **fields):
    spec = {
        "candidates": [{"stage": "ppo"}],
        "baseline": {"stage": "sft"},
        "prompts": [{"input": "prompts"}],
        "rewards": [{"stage": "reward"}, {"function": "evaluate_judges:letters"}],
        "costs": [{"function": "evaluate_judges:has_e"}],
        "generation": {"maxNewTokens": 6, "samples": 2},
        "resamples": 200,
        "show": 3,
        **fields,
    }
    names = {"stage:sft": "sft", "stage:ppo": "ppo", "stage:other": "other", "stage:reward": "reward"}
    inputs = {key: str(folder / name) for key, name in names.items()}
    inputs["input:prompts"] = str(folder / "prompts.jsonl")
    storage.mkdir()
    (storage / "evaluate_judges.py").symlink_to(folder / "evaluate_judges.py")
    return Case(storage=str(storage), type="evaluate", spec=spec, inputs=inputs)


def published(finished):
    evaluation = json.loads((finished.product / "evaluation.json").read_text())
    samples = [json.loads(line) for line in (finished.product / "samples.jsonl").read_text().splitlines()]
    manifest = json.loads((finished.product / "manifest.json").read_text())
    return evaluation, samples, manifest


@pytest.fixture(scope="module")
def done(folder):
    evaluate_case = case(folder, folder / "done")
    sys.modules.pop("evaluate_judges", None)
    alone(evaluate_case)
    return evaluate_case


def test_every_answer_of_every_model_is_kept_with_its_scores(done):
    evaluation, samples, manifest = published(done)
    assert len(samples) == PROMPTS * 2 * 2 == manifest["counts"]["answers"]
    assert {row["model"] for row in samples} == {"sft", "ppo"}
    for row in samples:
        assert row["scores"]["reward.letters"] == len(set(row["answer"])) / 10
        assert row["harmful"] is ("e" in row["answer"]) and 1 <= row["tokens"] <= 6
        assert row["ended"] or row["tokens"] == 6
    assert evaluation["prompts"] == PROMPTS and len(evaluation["shown"]) == 3


def test_the_table_is_what_the_samples_say(done):
    evaluation, samples, manifest = published(done)
    for model in evaluation["models"]:
        model_rows = [row for row in samples if row["model"] == model["name"]]
        for metric, value in {
            "harmful_rate": np.mean([row["harmful"] for row in model_rows]),
            "reward.letters": np.mean([row["scores"]["reward.letters"] for row in model_rows]),
            "reward.reward": np.mean([row["scores"]["reward.reward"] for row in model_rows]),
            "length": np.mean([row["tokens"] for row in model_rows]),
            "eos_rate": np.mean([row["ended"] for row in model_rows]),
        }.items():
            assert model["metrics"][metric]["value"] == pytest.approx(value), metric
            assert model["metrics"][metric]["n"] == PROMPTS
            assert manifest["metrics"][f"{model['name']}.{metric}"] == model["metrics"][metric]
    ppo = evaluation["models"][1]
    assert ppo["metrics"]["kl"]["value"] == pytest.approx(
        np.mean([row["kl"] for row in samples if row["kl"] is not None])
    )
    assert {row["category"]: row["n"] for row in evaluation["categories"]} == {"home": 20, "work": 20}


@pytest.mark.parametrize("narrow", ["sft", "ppo"])
def test_models_of_few_and_of_many_positions_get_the_same_prompts_and_each_weighs_the_others_answers(
    folder, tmp_path, narrow
):
    few = tiny_policy(tmp_path / "few", seed=5, positions=16)
    evaluate_case = case(folder, tmp_path / "storage", rewards=[], costs=[{"function": "evaluate_judges:has_e"}])
    evaluate_case.inputs[f"stage:{narrow}"] = str(few)
    sys.modules.pop("evaluate_judges", None)
    alone(evaluate_case)
    prompt_ids = {}
    for name in ("sft", "ppo"):
        shards = sorted((evaluate_case.work / "shards/answers" / name).iterdir())
        prompt_ids[name] = [row["prompt_ids"] for shard in shards for row in json.loads(shard.read_bytes())["rows"]]
    assert prompt_ids["sft"] == prompt_ids["ppo"]
    assert {len(ids) for ids in prompt_ids["ppo"]} == {16 - 6}
    evaluation, samples, _ = published(evaluate_case)
    assert np.isfinite(evaluation["models"][1]["metrics"]["kl"]["value"])
    assert all(row["kl"] is not None for row in samples if row["model"] == "ppo")


def test_a_model_score_is_that_of_the_ids_as_rolled_out(done, folder):

    from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer
    from rlhf_trainer.models.files import load_tokenizer

    shard = json.loads((done.work / "shards/answers/ppo/000000.json").read_bytes())["rows"]
    _, samples, _ = published(done)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward").eval()
    tokenizer = load_tokenizer(folder / "sft")
    prepare_tokenizer(tokenizer)
    for row in (shard[0], shard[7], next(row for row in shard if not row["finished"])):
        sampled = next(
            s for s in samples if s["model"] == "ppo" and (s["prompt"], s["sample"]) == (row["prompt"], row["sample"])
        )
        ids = (
            encode_prompt(tokenizer, [{"role": "user", "content": f"How do I stop a fire {row['prompt']}?"}])
            + row["ids"]
        )
        with torch.no_grad():
            expected = float(model(torch.tensor([ids])).logits[0, 0])
        assert sampled["scores"]["reward.reward"] == pytest.approx(expected, abs=1e-5)


def test_kl_is_that_of_both_models_on_the_candidates_answers(done, folder):
    from transformers import AutoModelForCausalLM

    shard = json.loads((done.work / "shards/answers/ppo/000000.json").read_bytes())["rows"]
    _, samples, _ = published(done)
    models = [AutoModelForCausalLM.from_pretrained(folder / name).eval() for name in ("ppo", "sft")]
    row = shard[3]
    ids = torch.tensor([[*row["prompt_ids"], *row["ids"]]])
    start = len(row["prompt_ids"]) - 1
    with torch.no_grad():
        logs = [model(ids).logits[0].log_softmax(-1)[start:-1] for model in models]
    picked = [log_probs[torch.arange(len(row["ids"])), torch.tensor(row["ids"])] for log_probs in logs]
    sampled = next(
        s for s in samples if s["model"] == "ppo" and (s["prompt"], s["sample"]) == (row["prompt"], row["sample"])
    )
    assert sampled["kl"] == pytest.approx(float((picked[0] - picked[1]).sum()), abs=1e-4)


def test_k1_and_k3_are_unbiased_on_a_distribution_summed_out():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    exact = float((p * np.log(p / q)).sum())
    single = [divergence([np.log(p[i])], [np.log(q[i])]) for i in range(3)]
    assert sum(p[i] * single[i][0] for i in range(3)) == pytest.approx(exact)
    assert sum(p[i] * single[i][1] for i in range(3)) == pytest.approx(exact)
    assert all(k3 >= 0 for _, k3 in single) and min(k1 for k1, _ in single) < 0


def test_two_ranks_a_restart_and_a_second_run_give_the_same_bytes(done, folder):
    again, both, resumed = (case(folder, folder / name) for name in ("again", "both", "resumed"))
    gang(2, [both], folder)
    alone(again)
    shards = done.work / "shards"
    shard_files = [
        path for path in sorted(shards.rglob("*.json")) if path.name == "000000.json" and "has_e" not in str(path)
    ]
    for path in shard_files:  # as a killed run leaves it: some shards are there
        target = resumed.work / "shards" / path.relative_to(shards)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    alone(resumed)
    for name in ("evaluation.json", "samples.jsonl", "metrics.jsonl"):
        first = (done.product / name).read_bytes()
        for repeated in (again, resumed):
            assert (repeated.product / name).read_bytes() == first, (name, repeated.storage)
        if name != "metrics.jsonl":
            assert (both.product / name).read_bytes() == first, name


def take_shards(done, receiver):
    for path in (done.work / "shards").rglob("*.json"):
        target = receiver.work / path.relative_to(done.work)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def test_other_gates_and_intervals_need_no_answer_again(done, folder):
    judges = sys.modules["evaluate_judges"]
    edited = case(folder, folder / "edited", gates=[{"metric": "length", "max": 99.0}], resamples=100, show=1)
    edited.digest = "1" * 64
    take_shards(done, edited)
    judges.CALLS.clear()
    alone(edited)
    assert judges.CALLS == []
    evaluation, samples, _ = published(edited)
    assert len(evaluation["gates"]) == 1 and samples == published(done)[1]


def test_other_answers_or_another_function_are_computed_anew(done, folder):
    judges = sys.modules["evaluate_judges"]
    longer = case(folder, folder / "longer", generation={"maxNewTokens": 5, "samples": 2})
    take_shards(done, longer)
    judges.CALLS.clear()
    alone(longer)
    assert sum(judges.CALLS) == PROMPTS * 2 * 2
    again = case(folder, folder / "rewritten")
    take_shards(done, again)
    source = folder / "evaluate_judges.py"
    source.write_text(JUDGES + "\n# another source\n")
    judges.CALLS.clear()
    alone(again)
    assert sum(judges.CALLS) == PROMPTS * 2 * 2
    source.write_text(JUDGES)


def test_damaged_shards_are_computed_anew(done, folder):
    again = case(folder, folder / "damaged")
    take_shards(done, again)
    shards = sorted((again.work / "shards").rglob("*.json"))
    shards[0].write_bytes(b"{")
    shards[1].write_bytes(b"[1]")
    raw = shards[2].read_bytes()
    shards[2].write_bytes(raw.replace(b'"prompt":3', b'"prompt":4') if b'"prompt":3' in raw else raw[:-3] + b"1]}")
    assert shards[2].read_bytes() != raw
    alone(again)
    for name in ("evaluation.json", "samples.jsonl"):
        assert (again.product / name).read_bytes() == (done.product / name).read_bytes()


def test_a_failed_gate_leaves_the_product_and_says_what_was_found(folder):
    evaluate_case = case(
        folder, folder / "gated", gates=[{"metric": "length", "max": 0.5}, {"metric": "length", "max": 99.0}]
    )
    with pytest.raises(GuardTripped, match=r"ppo: length is .* expected at most 0.5") as raised:
        alone(evaluate_case)
    assert raised.value.code == 3 and raised.value.reason == "GateFailed"
    evaluation, _, manifest = published(evaluate_case)
    assert [gate["passed"] for gate in evaluation["gates"]] == [False, True]
    assert "expected at most 0.5" in manifest["failure"]


def test_a_gate_on_an_unknown_metric_fails_before_anything_is_sampled(folder):
    evaluate_case = case(folder, folder / "misspelt", gates=[{"metric": "cost.has_a", "max": 0.0}])
    with pytest.raises(InputError, match=r"gates\[0\].metric: found 'cost.has_a'; this evaluation has cost.has_e"):
        alone(evaluate_case)
    assert not (evaluate_case.work / "shards").exists()


def test_another_tokenizer_leaves_kl_undefined_and_judges_read_text(folder):
    evaluate_case = case(folder, folder / "tokens", candidates=[{"stage": "other"}])
    alone(evaluate_case)
    evaluation, samples, _ = published(evaluate_case)
    assert evaluation["models"][1]["metrics"]["kl"]["value"] is None
    assert any("KL of other to sft is not defined" in note for note in evaluation["notes"])
    assert any("reward has another tokenizer than other" in note for note in evaluation["notes"])
    assert all(row["scores"]["reward.reward"] is not None for row in samples)


def test_greedy_answers_have_no_kl(folder):
    evaluate_case = case(folder, folder / "greedy", generation={"maxNewTokens": 4, "temperature": 0.0})
    alone(evaluate_case)
    evaluation, samples, _ = published(evaluate_case)
    assert evaluation["models"][1]["metrics"]["kl"]["value"] is None
    assert "greedy" in evaluation["notes"][0] and samples[0]["kl"] is None


def test_no_prompts_is_an_input_error(folder):
    evaluate_case = case(folder, folder / "none")
    empty = folder / "empty.jsonl"
    empty.write_text("")
    evaluate_case.inputs["input:prompts"] = str(empty)
    with pytest.raises(InputError):
        alone(evaluate_case)


def test_a_model_against_itself_shows_nothing_and_kl_is_zero(folder):
    evaluate_case = case(folder, folder / "same")
    evaluate_case.inputs["stage:ppo"] = evaluate_case.inputs["stage:sft"]
    alone(evaluate_case)
    evaluation, _, _ = published(evaluate_case)
    _, ppo = evaluation["models"]
    assert {entry["decision"] for entry in ppo["differences"].values()} == {"shows nothing"}
    assert ppo["metrics"]["win_rate"]["value"] == 0.5 or ppo["metrics"]["win_rate"]["low"] < 0.5
    assert ppo["metrics"]["kl"]["value"] == pytest.approx(0, abs=1e-9)


def test_it_tells_how_much_of_a_shard_is_answered(folder, monkeypatch):
    shares, report = [], Shards.report

    def listen(self, share):
        shares.append(share)
        report(self, share)

    monkeypatch.setattr(Shards, "report", listen)
    alone(case(folder, folder / "progress", rewards=[], costs=[{"function": "evaluate_judges:has_e"}]))
    assert len(shares) > 4  # more than a shard's end, for two models of two shards
    assert all(0 < share <= 1 for share in shares)
    assert any(share < 1 for share in shares)


def test_stopped_between_shards_it_keeps_what_it_has(folder, monkeypatch):
    from rlhf_trainer.context import StageContext

    evaluate_case = case(folder, folder / "stopped")
    stop_answers = iter([False, False, True])
    monkeypatch.setattr(StageContext, "stop_requested", lambda self: next(stop_answers))
    with pytest.raises(Stopped, match="what was sampled is kept"):
        alone(evaluate_case)
    assert len(list((evaluate_case.work / "shards").rglob("*.json"))) == 2
    assert not evaluate_case.product.exists()


def test_names_weights_and_shown_prompts():
    ref = lambda **kw: types.SimpleNamespace(  # noqa: E731
        input=kw.get("input"), stage=kw.get("stage"), key=":".join(next(iter(kw.items())))
    )
    assert model_names([ref(stage="sft"), ref(input="base")]) == ["sft", "base"]
    assert model_names([ref(stage="base"), ref(input="base")]) == ["stage-base", "input-base"]
    wide = types.SimpleNamespace(rewards={"a": np.array([[0.0], [10.0]]), "b": np.array([[1.0], [1.0]])})
    assert reward_weights([wide]) == {"a": pytest.approx(1 / 5), "b": 1.0}
    assert shown(100, 5, 3) == shown(100, 5, 3) and len(set(shown(100, 5, 3))) == 5
    assert shown(3, 64, 0) == [0, 1, 2]


def test_a_judge_whose_template_refuses_a_prompt_gives_no_score_and_goes_on(folder):
    """`prepare` leaves such prompts out; one that comes all the same must not end the stage."""
    target = tiny_scorer(folder / "refusing", seed=8)
    template = target / "chat_template.jinja"
    refusal = "{% if messages[0]['content'] == 'odd' %}{{ raise_exception('too odd') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    judge = ModelJudge(str(target), "reward", "float32", torch.device("cpu"), folder)
    prompts = [Prompt(({"role": "user", "content": text},), None, Where("asks.jsonl", 1)) for text in ("a", "odd", "b")]
    rows = [{"prompt_ids": [5], "ids": [6, 2], "finished": True, "text": "yes"}] * 3
    first, refused, last = judge.scores(prompts, rows, as_text=True)
    assert refused is None
    assert judge.scores(prompts[::2], rows[::2], as_text=True) == pytest.approx([first, last])
    assert None not in judge.scores(prompts, rows, as_text=False)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_an_ensemble_judges_by_its_own_rule(folder, trunk):
    target = folder / f"ensemble-{trunk}"
    if trunk == "shared":
        tiny_scorer(target, seed=8, labels=2)
    else:
        for member in range(2):
            tiny_scorer(target / "members" / str(member), seed=8 + member)
    Rule(kind="cost", trunk=trunk, members=2, combine="conservative").write(target)
    judge = ModelJudge(str(target), "cost", "float32", torch.device("cpu"), folder)
    rows = [
        {"prompt_ids": [5, 6, 7], "ids": [8, 9, 2], "finished": True, "text": ""},
        {"prompt_ids": [5], "ids": [10] * 9, "finished": False, "text": ""},
    ]
    scores = judge.scores([None, None], rows, as_text=False)
    models = [target] if trunk == "shared" else [target / "members" / str(member) for member in range(2)]
    for row, score in zip(rows, scores, strict=True):
        ids = torch.tensor([[*row["prompt_ids"], *row["ids"]]])
        with torch.no_grad():
            each = [AutoModelForSequenceClassification.from_pretrained(path).eval()(ids).logits[0] for path in models]
        assert score == pytest.approx(float(torch.cat(each).max()), abs=1e-5)
