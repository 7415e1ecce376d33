"""Further judges of an evaluation on tiny models: what they are asked, what is made of it, however the stage ran."""

import json
import math
import random

import numpy as np
import pytest
import torch
from stage_gang import Case, alone, gang
from tiny import WORDS, tiny_policy
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_trainer.data.rows import Prompt, Where
from rlhf_trainer.evaluation import scale
from rlhf_trainer.evaluation.answers import Answering
from rlhf_trainer.evaluation.asked import GOOD
from rlhf_trainer.evaluation.guard import GuardJudge, Verdict
from rlhf_trainer.evaluation.pairwise import QUESTION
from rlhf_trainer.exits import GuardTripped, InputError

PROMPTS, SAMPLES = 40, 2  # two shards
INSTRUCTION = "Choose the kinder one."
SCALE = {"name": "grade", "asks": "scale", "model": {"input": "judge"}}
GUARD = {
    "name": "shield",
    "asks": "guard",
    "model": {"input": "guard"},
    "labels": {"safe": ["No way"], "unsafe": ["yes", "perhaps"]},
}
GUARD_TEMPLATE = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
    "{{ '<|im_start|>Is the last answer safe?\n' }}"
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
)
PAIRS = {"name": "kind", "asks": "pairs", "model": {"input": "judge"}, "instruction": INSTRUCTION}


def guard(path):
    """A tiny guard that learned to write labels: unsafe where the answer has an E."""
    tiny_policy(path, seed=9, positions=1024)
    (path / "chat_template.jinja").write_text(GUARD_TEMPLATE)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    draw = random.Random(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for number in range(160):
        letters = "".join(draw.choices("abcdefgh ,.!", k=draw.randint(1, 12)))
        answer = f"{letters} {draw.choice(WORDS)}"
        messages = [{"role": "user", "content": f"How {number}?"}, {"role": "assistant", "content": answer}]
        question = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        label = " yes\nS1" if "e" in answer else " no way"
        reply = [*tokenizer(label).input_ids, 2]
        labels = torch.tensor([[-100] * len(question) + reply])
        model(torch.tensor([[*question, *reply]]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("judges")
    for seed, name in enumerate(("sft", "ppo", "dpo", "judge"), 1):
        tiny_policy(root / name, seed=seed, positions=1024)
    guard(root / "guard")
    rows = [{"prompt": f"How do I stop a fire {index}?"} for index in range(PROMPTS)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def case(folder, storage, **fields):
    spec = {
        "candidates": [{"stage": "ppo"}, {"stage": "dpo"}],
        "baseline": {"stage": "sft"},
        "prompts": [{"input": "prompts"}],
        "generation": {"maxNewTokens": 6, "samples": SAMPLES},
        "resamples": 200,
        "judges": [PAIRS, SCALE, GUARD],
        **fields,
    }
    inputs = {f"stage:{name}": str(folder / name) for name in ("sft", "ppo", "dpo")}
    inputs |= {"input:prompts": str(folder / "prompts.jsonl"), "input:judge": str(folder / "judge")}
    inputs["input:guard"] = str(folder / "guard")
    storage.mkdir()
    return Case(storage=str(storage), type="evaluate", spec=spec, inputs=inputs)


def share(row):
    """Of a pair: 1 where the first answer is preferred."""
    return 0.5 if row["identical"] else 0.5 + 0.5 * np.sign(row["log_odds"][0] - row["log_odds"][1])


def published(finished):
    evaluation = json.loads((finished.product / "evaluation.json").read_text())
    samples = [json.loads(line) for line in (finished.product / "samples.jsonl").read_text().splitlines()]
    return evaluation, samples


def kept_rows(finished, name):
    shards = sorted((finished.work / "shards/judges" / name).glob("*.json"))
    return [row for shard in shards for row in json.loads(shard.read_bytes())["rows"]]


@pytest.fixture(scope="module")
def done(folder):
    judged = case(folder, folder / "done")
    alone(judged)
    return judged


class ByHand:
    """The judge's own forward, one question at a time."""

    def __init__(self, path):
        self.model, self.tokenizer = (
            AutoModelForCausalLM.from_pretrained(path).eval(),
            AutoTokenizer.from_pretrained(path),
        )

    def log_probs(self, text, lead, labels):
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(chat + lead, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            logs = self.model(ids).logits[0, -1].double().log_softmax(-1)
        return [float(logs[self.tokenizer.convert_tokens_to_ids(label)]) for label in labels]


def test_both_orders_of_every_pair_of_models_are_asked(done, folder):
    _, samples = published(done)
    by_hand = ByHand(folder / "judge")
    texts = {(row["model"], row["prompt"], row["sample"]): row["answer"] for row in samples}
    for first, second in (("sft", "ppo"), ("sft", "dpo"), ("ppo", "dpo")):
        rows = kept_rows(done, f"kind/{first}/{second}")
        assert [(row["prompt"], row["sample"]) for row in rows] == [
            (prompt, sample) for prompt in range(PROMPTS) for sample in range(SAMPLES)
        ]
        for row in rows[:: PROMPTS // 2]:
            a, b = (texts[name, row["prompt"], row["sample"]] for name in (first, second))
            assert row["identical"] is (a == b)
            for (shown_first, shown_next), odds in zip([(a, b), (b, a)], row["log_odds"] or [], strict=False):
                text = QUESTION.format(
                    dialogue=f"Human: How do I stop a fire {row['prompt']}?",
                    first=shown_first,
                    second=shown_next,
                    instruction=INSTRUCTION,
                )
                said = by_hand.log_probs(text, "I choose answer (", "AB")
                assert odds == pytest.approx(said[0] - said[1], abs=1e-4)


def test_win_rates_are_those_of_the_mean_of_both_orders(done):
    evaluation, _ = published(done)
    section = evaluation["further_judges"][0]
    every = []
    for name in ("ppo", "dpo"):
        rows = kept_rows(done, f"kind/sft/{name}")
        won = [1 - share(row) for row in rows]
        (model,) = [model for model in evaluation["models"] if model["name"] == name]
        rate = model["metrics"]["judge.kind.win_rate"]
        assert rate["value"] == pytest.approx(np.mean(won)) and rate["n"] == PROMPTS
        assert rate["low"] < rate["value"] < rate["high"]
        assert "judge.kind.win_rate" not in model["differences"]
    for pair in ("sft/ppo", "sft/dpo", "ppo/dpo"):
        every += kept_rows(done, f"kind/{pair}")
    odds = np.array([row["log_odds"] or [np.nan] * 2 for row in every])
    by_prompt = [row["prompt"] for row in every]
    agreed = np.where(np.isnan(odds[:, 0]), np.nan, np.sign(odds[:, 0]) != np.sign(odds[:, 1]))
    placed = np.where(np.isnan(odds), np.nan, odds > 0).mean(axis=1)
    for values, metric in ((agreed, "order_agreement"), (placed, "position_bias")):
        means = [np.nanmean(values[np.equal(by_prompt, prompt)]) for prompt in range(PROMPTS)]
        assert section[metric]["value"] == pytest.approx(np.mean(means)) and section[metric]["n"] == PROMPTS
    assert section["position_bias"]["log_odds"] == pytest.approx(np.nanmean(odds))
    assert section["identical"] == sum(row["identical"] for row in every)
    assert (section["shows_nothing"] is None) is (section["order_agreement"]["decision"] == "higher")
    assert list(section["elo"]) == ["sft", "ppo", "dpo"] and section["elo"]["sft"]["value"] == 0


def test_elo_is_the_fit_of_all_pairs(done):
    """The likelihood equations at the published strengths, from the kept rows."""
    evaluation, _ = published(done)
    section = evaluation["further_judges"][0]
    names = ["sft", "ppo", "dpo"]
    values = np.array([section["elo"][name]["value"] for name in names]) * math.log(10) / 400
    won, expected = np.zeros(3), np.zeros(3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for row in kept_rows(done, f"kind/{names[i]}/{names[j]}"):
            won += [share(row) * (index == i) + (1 - share(row)) * (index == j) for index in range(3)]
            probability = 1 / (1 + math.exp(values[j] - values[i]))
            expected += [probability * (index == i) + (1 - probability) * (index == j) for index in range(3)]
    assert won == pytest.approx(expected, abs=1e-6)


def test_a_scale_is_the_expected_digit(done, folder):
    evaluation, samples = published(done)
    by_hand = ByHand(folder / "judge")
    for model in evaluation["models"]:
        rows = kept_rows(done, f"grade/{model['name']}")
        answers = [row for row in samples if row["model"] == model["name"]]
        for row, sample in list(zip(rows, answers, strict=True))[:: PROMPTS // 2]:
            text = scale.QUESTION.format(
                dialogue=f"Human: {sample['messages'][0]['content']}", answer=sample["answer"], instruction=GOOD
            )
            probabilities = np.exp(by_hand.log_probs(text, "I rate it (", "12345678"))
            assert row["score"] == pytest.approx(probabilities @ np.arange(1, 9) / probabilities.sum(), abs=1e-4)
            assert row["mass"] == pytest.approx(probabilities.sum(), abs=1e-5)
        metric = model["metrics"]["judge.grade.score"]
        assert metric["value"] == pytest.approx(np.mean([row["score"] for row in rows])) and metric["n"] == PROMPTS
    assert evaluation["models"][1]["differences"]["judge.grade.score"]["decision"] in (
        "higher",
        "lower",
        "shows nothing",
    )
    section = evaluation["further_judges"][1]
    assert section["unreadable"] == 0 and section["questions"] == 3 * PROMPTS * SAMPLES


def test_a_guard_writes_its_label_through_its_own_template(done, folder):
    evaluation, samples = published(done)
    model, tokenizer = (kind.from_pretrained(folder / "guard") for kind in (AutoModelForCausalLM, AutoTokenizer))
    by_name = {row["name"]: row["metrics"]["judge.shield.harmful_rate"] for row in evaluation["models"]}
    unreadable = 0
    for name, metric in by_name.items():
        rows = kept_rows(done, f"shield/{name}")
        for row, sample in list(zip(rows, (row for row in samples if row["model"] == name), strict=True))[
            :: PROMPTS // 2
        ]:
            dialogue = [*sample["messages"], {"role": "assistant", "content": sample["answer"]}]
            ids = tokenizer.apply_chat_template(dialogue, return_tensors="pt", return_dict=True)["input_ids"]
            reply = model.eval().generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :]
            assert row["wrote"] == tokenizer.decode(reply, skip_special_tokens=True)
        read = [row["harmful"] for row in rows if row["harmful"] is not None]
        unreadable += len(rows) - len(read)
        for row in rows:
            first, second = [*row["wrote"].split(), "", ""][:2]
            assert row["harmful"] is (True if first == "yes" else False if (first, second) == ("no", "way") else None)
        by_prompt = [
            np.mean(values)
            for prompt in range(PROMPTS)
            if (values := [row["harmful"] for row in rows if row["prompt"] == prompt and row["harmful"] is not None])
        ]
        assert len(read) > PROMPTS  # it learned to write labels at all
        assert metric["value"] == pytest.approx(np.mean(by_prompt)) and metric["n"] == len(by_prompt)
    assert evaluation["further_judges"][2]["unreadable"] == unreadable


def test_a_dialogue_that_the_guard_s_template_refuses_is_unreadable(folder):
    answering = Answering(str(folder / "guard"), "float32", torch.device("cpu"), folder)
    judge = GuardJudge(answering, None)
    asks, system = ({"role": role, "content": "What?"} for role in ("user", "system"))
    prompts = [Prompt(turns, None, Where("rows.jsonl", 1)) for turns in ((asks,), (system, asks), (asks,))]
    first, refused, last = judge.verdicts(prompts, ["Yes.", "Yes.", "Yes. " * 1000])
    assert first.text and (refused, last) == (Verdict(None, ""), Verdict(None, ""))


def test_a_guard_without_a_template_is_refused(folder, tmp_path):
    path = tiny_policy(tmp_path / "bare", seed=1)
    (path / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="expected the guard's own"):
        GuardJudge(Answering(str(path), "float32", torch.device("cpu"), path), None)


def test_a_model_against_itself_is_all_ties_and_no_judge_is_asked(folder):
    same = case(folder, folder / "same", judges=[PAIRS], candidates=[{"stage": "ppo"}])
    same.inputs["stage:ppo"] = same.inputs["stage:sft"]
    alone(same)
    evaluation, _ = published(same)
    section = evaluation["further_judges"][0]
    assert section["identical"] == PROMPTS * SAMPLES and section["elo"]["ppo"]["value"] == pytest.approx(0)
    assert section["shows_nothing"] == "0 prompts, fewer than 12"
    assert evaluation["models"][1]["metrics"]["judge.kind.win_rate"]["value"] == 0.5


def test_two_ranks_and_a_restart_give_the_same_bytes(done, folder):
    both, resumed = (case(folder, folder / name) for name in ("both", "resumed"))
    gang(2, [both], folder)
    shards = done.work / "shards"
    for path in [*shards.glob("judges/*/*/*/000000.json"), *shards.glob("judges/*/*/000000.json")]:
        target = resumed.work / "shards" / path.relative_to(shards)  # as a killed run leaves it: some shards are there
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    alone(resumed)
    for finished in (both, resumed):
        for name in ("evaluation.json", "samples.jsonl"):
            assert (finished.product / name).read_bytes() == (done.product / name).read_bytes()


def test_a_gate_may_name_a_judge(folder):
    gated = case(
        folder,
        folder / "gated",
        judges=[PAIRS],
        candidates=[{"stage": "ppo"}],
        gates=[{"metric": "judge.kind.win_rate", "min": 1.0, "compare": "interval"}],
    )
    with pytest.raises(GuardTripped, match=r"judge\.kind\.win_rate"):
        alone(gated)
    assert published(gated)[0]["gates"][0]["found"]["n"] == PROMPTS


def test_a_judge_without_labels_of_one_token_is_refused(folder, monkeypatch):
    from rlhf_trainer.evaluation import labels

    monkeypatch.setattr(labels, "PAIRS", (("I choose", (" AAAA", " BBBB")),))
    with pytest.raises(InputError, match="no single tokens"):
        alone(case(folder, folder / "split", judges=[PAIRS]))
