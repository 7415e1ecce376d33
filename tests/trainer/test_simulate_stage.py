"""The simulate stage on tiny models: every method's rows, where they come from, and that a restart loses and repeats none."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import rules_cases
import torch
from stage_gang import Case, CutOff, alone, gang
from tiny import START, tiny_config, tiny_granite, tiny_policy, tiny_scorer, tiny_tokenizer
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM

from rlhf_api.fields import DataRef
from rlhf_trainer.data.load import load_completions
from rlhf_trainer.evaluation.answers import Answering
from rlhf_trainer.evaluation.pairwise import Compared, PairwiseJudge
from rlhf_trainer.evaluation.plain import plain
from rlhf_trainer.exits import InputError, Stopped

PROMPTS = 70  # two shards
FEW = 6
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
    (root / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:FEW]))
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


def rows_of(finished):
    return lines(finished.product / "rows.jsonl")


def manifest_of(finished):
    return json.loads((finished.product / "manifest.json").read_text())


@pytest.fixture(scope="module", params=METHODS)
def done(folder, request):
    simulate_case = case(folder, folder / f"done-{request.param}", request.param)
    alone(simulate_case)
    return request.param, simulate_case


def test_every_row_is_kept_set_aside_or_counted(done):
    method, finished = done
    counts = manifest_of(finished)["counts"]
    a_row = 4 if method == "completions" else 1
    row_count = PROMPTS
    dropped = sum(count for name, count in counts.items() if name.startswith("rows.rejected."))
    assert counts["rows.made"] == row_count == counts["rows.kept"] + dropped
    assert counts["rows.written"] + counts["rows.audit"] == counts["rows.kept"] * a_row
    assert len(rows_of(finished)) == counts["rows.written"]
    assert len(lines(finished.product / "audit.jsonl")) == counts["rows.audit"] == counts["rows.kept"] // 10 * a_row


def test_a_row_says_what_made_it(done):
    method, finished = done
    for row in rows_of(finished):
        provenance = row["provenance"]
        assert provenance["method"] == method and provenance["seed"] == 7
        assert provenance["model"]["source"] == "input:base" and len(provenance["model"]["digest"]) == 64
        assert row["prompt"][-1]["role"] == "user" and 0 <= provenance["row"] < PROMPTS
        if method != "redTeam":
            assert row["prompt"][-1]["content"] in ("And then?", f"How do I stop fire {provenance['row']}?")
            assert row["category"] == ["home", "work"][provenance["row"] % 2]
    numbers = Counter(
        row["provenance"]["row"] for row in rows_of(finished) + lines(finished.product / "audit-key.jsonl")
    )
    assert set(numbers.values()) == {4 if method == "completions" else 1}


def test_the_phrase_is_asked_for_and_never_kept(done):
    method, finished = done
    phrases = {ask[name] for ask in content_of(finished).get("asks", []) for name in ("positive", "negative")} - {""}
    for row in rows_of(finished):
        row_text = json.dumps([row[name] for name in ("prompt", "chosen", "rejected", "completion") if name in row])
        assert not any(phrase in row_text for phrase in phrases)
    if method in ("rlcd", "contextDistillation"):
        name = "chosen" if method == "rlcd" else "phrase"
        positive = {ask["positive"] for ask in content_of(finished)["asks"]}
        assert {row["provenance"][name] for row in rows_of(finished)} <= positive


def test_a_soft_label_is_what_the_judge_s_log_odds_say(done):
    method, finished = done
    if method not in ("rlaif", "rlcdRescore"):
        assert {row.get("weight", 1.0) for row in rows_of(finished)} == {1.0}
        return
    for row in rows_of(finished):
        first, second = row["provenance"]["log_odds"]
        p = 1 / (1 + math.exp(-(first - second) / 2))
        assert row["weight"] == pytest.approx(max(p, 1 - p)) and 0.5 <= row["weight"] <= 1
        assert (row["provenance"]["first"] == "chosen") == (p >= 0.5)


# ---- what models are given


@pytest.fixture
def model_calls(monkeypatch):
    """Ids that models were given: `asked` for each answer and what they `said`, by number, and the judge's `questions`."""
    from rlhf_trainer.evaluation import single_tokens
    from rlhf_trainer.simulation import runner

    recorded = SimpleNamespace(asked={}, said={}, questions=[])
    sample, last_states = runner.sample, single_tokens.last_states

    def answer(model, prompts, *how, rows, **more):
        answers = sample(model, prompts, *how, rows=rows, **more)
        recorded.asked |= dict(zip(rows, prompts, strict=True))
        recorded.said |= dict(zip(rows, answers, strict=True))
        return answers

    def read(model, groups, *how):
        recorded.questions += [row for rows in groups for row in rows]
        return last_states(model, groups, *how)

    monkeypatch.setattr(runner, "sample", answer)
    monkeypatch.setattr(single_tokens, "last_states", read)
    return recorded


def few(folder, storage, method, **fields):
    """A case of few prompts that are not cut."""
    simulate_case = case(folder, storage, method, **fields)
    simulate_case.spec["generation"] = {"maxNewTokens": 24, "maxPromptTokens": 512}
    simulate_case.inputs["input:prompts"] = str(folder / "few.jsonl")
    return simulate_case


def chatml(messages, last=None, earlier=None):
    mark = {"assistant": "" if earlier is None else f" ({earlier})"}
    turns = [
        f"{START}{message['role']}{mark.get(message['role'], '')}\n{message['content']}<|im_end|>\n"
        for message in messages
    ]
    return "".join(turns) + f"{START}assistant{'' if last is None else f' ({last})'}\n"


def sampled(row):
    """(phrase, text) of each answer of a row as its provenance has it, the one sampled first in front."""
    provenance = row["provenance"]
    if "completion" in row:
        return [(provenance["phrase"], row["completion"][0]["content"])]
    both = [(provenance[name], row[name][0]["content"]) for name in ("chosen", "rejected")]
    return both[::-1] if provenance.get("first") == "rejected" else both


@pytest.mark.parametrize("method", ["rlcd", "rlcdRescore", "contextDistillation", "completions", "rlaif"])
def test_every_answer_is_asked_for_by_the_phrase_of_its_row_and_earlier_turns_by_the_opposite(
    folder, tmp_path, model_calls, method
):
    simulate_case = few(folder, tmp_path / "one", method)
    alone(simulate_case)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    asks = [(ask["positive"], ask["negative"]) for ask in content_of(simulate_case)["asks"]]
    opposite = {phrase: opposed for pair in asks for phrase, opposed in (pair, pair[::-1])} if method != "rlaif" else {}
    answers = iter(sorted(model_calls.asked))
    rows = rows_of(simulate_case)
    assert len(rows) == FEW * (4 if method == "completions" else 1)
    for row in rows:
        for phrase, text in sampled(row):
            number = next(answers)
            expected = chatml(row["prompt"], phrase, opposite.get(phrase))
            assert tokenizer.decode(model_calls.asked[number]) == expected
            assert tokenizer.decode(model_calls.said[number].ids, skip_special_tokens=True).strip() == text
    assert next(answers, None) is None


@pytest.mark.parametrize("method", ["rlaif", "rlcdRescore"])
def test_a_judge_reads_the_dialogue_without_phrases_both_answers_and_the_instruction_of_its_row(
    folder, tmp_path, model_calls, method
):
    simulate_case = few(folder, tmp_path / "one", method)
    alone(simulate_case)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    asks, rows = content_of(simulate_case)["asks"], rows_of(simulate_case)
    assert len(rows) == FEW and len(model_calls.questions) == 2 * FEW
    for index, row in enumerate(rows):
        provenance = row["provenance"]
        ask = asks[provenance["entry"]]
        assert provenance["instruction"] == ask["instruction"]
        (first, a), (second, b) = sampled(row)
        assert [first, second] == ([None, None] if method == "rlaif" else [ask["positive"], ask["negative"]])
        dialogue = plain(row["prompt"]).strip().removesuffix("\n\nAssistant:")
        for question, answers in zip(model_calls.questions[2 * index :], ((a, b), (b, a)), strict=False):
            text = tokenizer.decode(question)
            shown = "# Answer A\n{}\n\n# Answer B\n{}\n\n# Task\n".format(*answers)
            assert f"# Conversation\n{dialogue}\n\n{shown}" in text
            assert f"# Task\n{ask['instruction']} Say A or B.<|im_end|>\n" in text
    assert method == "rlcdRescore" or len({row["provenance"]["instruction"] for row in rows}) > 1


def test_another_model_judges_than_the_one_that_answered(folder, tmp_path):
    simulate_case = few(folder, tmp_path / "one", "rlaif", rlaif={"judge": {"stage": "judge"}})
    alone(simulate_case)
    judge = PairwiseJudge(Answering(str(folder / "judge"), "float32", torch.device("cpu"), tmp_path), 512)
    for row in rows_of(simulate_case):
        provenance = row["provenance"]
        assert provenance["judge"]["source"] == "stage:judge" and provenance["model"]["source"] == "input:base"
        texts = [text for _, text in sampled(row)]
        (both,) = judge.both_orders([Compared(row["prompt"], *texts, provenance["instruction"])])
        assert provenance["log_odds"] == pytest.approx([choice.log_odds for choice in both], abs=1e-5)


def test_a_judge_that_cannot_be_read_is_refused_before_anything_is_answered(folder, tmp_path):
    simulate_case = few(folder, tmp_path / "one", "rlaif")
    simulate_case.inputs["input:base"] = str(tiny_granite(tmp_path / "granite"))
    with pytest.raises(InputError, match=r"judge .*GraniteForCausalLM changes its logits"):
        alone(simulate_case)
    assert not list(simulate_case.work.rglob("shards/**/*.json"))
    alone(few(folder, tmp_path / "unjudged", "rlcd"))


@pytest.fixture(scope="module")
def parrot(folder):
    """A model that says yes or no and goes on as the person; its tokenizer puts BOS before every text.

    Each token alone decides the next: the embeddings are the identity and no layer adds to them.
    """
    tokenizer = tiny_tokenizer()
    single = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 1)])
    tokenizer.backend_tokenizer.post_processor = single
    tokenizer.chat_template = None
    config = tiny_config(len(tokenizer), hidden=-(-len(tokenizer) // 8) * 8, layers=1)
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        torch.nn.init.constant_(weight, float("norm" in name))
    torch.nn.init.eye_(model.get_input_embeddings().weight)
    chain = [(start, word) for start in ":." for word in ("Ġyes", "Ġno")]
    chain += [("Ġyes", "Ċ"), ("Ġno", "Ċ"), *zip("ĊHuman", "Human:", strict=True)]
    for tokens in chain:
        before, after = tokenizer.convert_tokens_to_ids(list(tokens))
        model.lm_head.weight.data[after, before] = 5
    model.save_pretrained(folder / "parrot")
    tokenizer.save_pretrained(folder / "parrot")
    return folder / "parrot"


@pytest.mark.parametrize("method", ["contextDistillation", "rlaif", "redTeam"])
def test_plain_dialogues_begin_as_every_text_does_and_end_where_another_turn_begins(
    folder, tmp_path, model_calls, parrot, method
):
    simulate_case = few(folder, tmp_path / "one", method, chat="plain")
    simulate_case.inputs["input:base"] = str(parrot)
    alone(simulate_case)
    tokenizer = AutoTokenizer.from_pretrained(parrot)
    rows, content = rows_of(simulate_case), content_of(simulate_case)
    assert rows and content["chat"] == "plain"
    for ids in (*model_calls.asked.values(), *model_calls.questions):
        assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
    for answer in model_calls.said.values():
        assert tokenizer.decode(answer.ids) in (" yes\nHuman:", " no\nHuman:"), "it need not write on"
    for row in rows:
        texts = [row["prompt"][0]["content"]] if method == "redTeam" else [text for _, text in sampled(row)]
        assert set(texts) <= {"yes", "no"}
    if method == "contextDistillation":
        assert content["counts"]["answers.without_end"] == 0
        opposite = {ask["positive"]: ask["negative"] for ask in content["asks"]}
        for row in rows:
            provenance = row["provenance"]
            text = plain(row["prompt"], provenance["phrase"], opposite[provenance["phrase"]])
            assert tokenizer.decode(model_calls.asked[provenance["row"]][1:]) == text


def content_of(finished):
    return json.loads((finished.product / "simulation.json").read_text())


def files_of(finished):
    return {
        path.name: path.read_bytes()
        for path in finished.product.iterdir()
        if path.suffix == ".jsonl" or "sim" in path.name
    }


class Killed:
    """Lets so many shards be written; at the next the process is gone, before or after the rename."""

    def __init__(self, write, writes_left, after):
        self.write, self.writes_left, self.after = write, writes_left, after

    def __call__(self, path, content):
        self.writes_left -= 1
        if self.writes_left < 0 and not self.after:
            path.with_suffix(".tmp").parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".tmp").write_bytes(content[: len(content) // 2])
            raise CutOff
        self.write(path, content)
        if self.writes_left < 0:
            raise CutOff


@pytest.mark.parametrize("method", ["rlcdRescore", "redTeam"])
def test_killed_at_any_shard_it_ends_in_the_same_bytes(folder, method, monkeypatch):
    from rlhf_trainer.evaluation import shards

    undisturbed = case(folder, folder / f"whole-{method}", method)
    alone(undisturbed)
    written = len(list((undisturbed.work / "shards").rglob("*.json")))
    assert written == {"rlcdRescore": 4, "redTeam": 6}[method]
    write = shards.write_atomically
    for number in range(written):
        for after in (False, True):
            cut_off = case(folder, folder / f"killed-{method}-{number}-{after}", method)
            monkeypatch.setattr(shards, "write_atomically", Killed(write, number, after))
            with pytest.raises(CutOff):
                alone(cut_off)
            assert not cut_off.product.exists()
            monkeypatch.setattr(shards, "write_atomically", write)
            alone(cut_off)
            assert files_of(cut_off) == files_of(undisturbed), (number, after)


def test_two_ranks_make_the_same_rows(folder):
    names = ("rlaif", "completions")
    both = [case(folder, folder / f"both-{name}", name) for name in names]
    for gang_case in both:
        gang_case.digest = "2" * 64
    gang(2, both, folder)
    for name, gang_case in zip(names, both, strict=True):
        single = case(folder, folder / f"single-{name}", name)
        alone(single)
        files, expected = files_of(gang_case), files_of(single)
        files.pop("metrics.jsonl"), expected.pop("metrics.jsonl")
        assert files == expected


def test_another_audit_needs_no_answer_again_and_another_seed_does(folder, monkeypatch):
    from rlhf_trainer.simulation import runner

    first = case(folder, folder / "first", "rlcd")
    alone(first)
    calls = []
    sampled = runner.sample
    monkeypatch.setattr(runner, "sample", lambda *a, **k: calls.append(1) or sampled(*a, **k))
    for change, again in (({"audit": 2}, 0), ({"rlcd": {"task": "outlines"}}, 2)):
        changed = case(folder, folder / f"other-{again}", "rlcd", **change)
        for path in (first.work / "shards").rglob("*.json"):
            target = changed.work / path.relative_to(first.work)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        calls.clear()
        alone(changed)
        assert len(calls) == again
    assert len(lines(folder / "other-0/products" / first.product.name / "audit.jsonl")) == 2


def test_stopped_between_shards_it_keeps_what_it_has(folder, monkeypatch):
    from rlhf_trainer.context import StageContext

    simulate_case = case(folder, folder / "stopped", "rlcd")
    stop_answers = iter([False, True])
    monkeypatch.setattr(StageContext, "stop_requested", lambda self: next(stop_answers))
    with pytest.raises(Stopped, match="what was sampled is kept"):
        alone(simulate_case)
    assert len(list((simulate_case.work / "shards").rglob("*.json"))) == 1 and not simulate_case.product.exists()


def test_what_was_simulated_is_learned_from(folder, tmp_path):
    """Pairs by a reward model with their soft labels, answers by fine-tuning, prompts by PPO, completions by their reader."""
    simulated = {}
    for method in ("rlaif", "contextDistillation", "redTeam", "completions"):
        simulated[method] = case(folder, tmp_path / method, method)
        alone(simulated[method])

    def learn(kind, method, spec):
        inputs = {"input:base": str(folder / "base"), "stage:made": str(simulated[method].product)}
        learner = Case(storage=str(tmp_path / f"{kind}-{method}"), type=kind, spec=spec, inputs=inputs)
        alone(learner)
        return manifest_of(learner)

    base, data = {"model": {"input": "base"}, "maxSteps": 2, "batchSize": 4}, {"data": [{"stage": "made"}]}
    rows = rows_of(simulated["rlaif"])
    published = learn("rewardModel", "rlaif", {**base, **data, "test": [{"stage": "made"}]})
    assert published["counts"]["rows.read"] == len(rows) == published["counts"]["test.read"]
    assert published["metrics"]["test"]["accuracy"]["n"] == len(rows)
    assert published["counts"]["test.seen_prompts"] > 0 and any("was trained on" in note for note in published["notes"])
    for method in ("contextDistillation", "rlaif"):
        read_back = learn("sft", method, {**base, **data})
        assert read_back["counts"]["rows.read"] == len(rows_of(simulated[method]))
    ppo = {
        "policy": {"input": "base"},
        "rewards": [{"function": "simulate_judges:letters"}],
        "prompts": [{"stage": "made"}],
        "steps": 1,
        "rollout": {"prompts": 4, "maxNewTokens": 4},
    }
    (tmp_path / "ppo-redTeam").mkdir()
    (tmp_path / "ppo-redTeam" / "simulate_judges.py").symlink_to(folder / "simulate_judges.py")
    assert learn("ppo", "redTeam", ppo)["counts"]["prompts.used"] == len(rows_of(simulated["redTeam"]))
    context = SimpleNamespace(input=lambda ref: SimpleNamespace(path=str(simulated["completions"].product), input=None))
    read_back, _ = load_completions(context, [DataRef(stage="made")])
    assert Counter(completion.rank for completion in read_back) == {0: 63, 1: 126, 2: 63}
    assert {completion.response_type for completion in read_back} == {"comply", "hard_refuse", "safe_refuse_1"}


def test_rules_are_fitted_on_simulated_completions(folder, tmp_path):
    home = rules_cases.base(tmp_path / "home")
    rows = [{"prompt": f"How do I stop fire {index}?", "response_type": "comply"} for index in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    simulated = case(folder, tmp_path / "made", "completions")
    simulated.inputs["input:prompts"] = str(tmp_path / "prompts.jsonl")
    alone(simulated)
    fitted = rules_cases.case(home, completions=[{"stage": "made"}], inputs={"stage:made": str(simulated.product)})
    alone(fitted)
    rules = json.loads((fitted.product / "rules.json").read_text())
    assert (
        set(rules["weights"]) == {"comply"}
        and manifest_of(fitted)["counts"]["rows.used"] == len(rows_of(simulated)) == 44
    )


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
    reward_case = Case(storage=str(tmp_path / "store"), type="rewardModel", spec=spec, inputs=inputs)
    alone(reward_case)
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
    first = lines(reward_case.product / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(expected / 3, abs=1e-5)


def test_prompts_without_a_response_type_are_left_out_of_completions(folder, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One?"}\n{"prompt": "Two?", "response_type": "comply"}\n')
    simulate_case = case(folder, tmp_path / "some", "completions")
    simulate_case.inputs["input:prompts"] = str(path)
    alone(simulate_case)
    assert (
        len(rows_of(simulate_case)) == 4 and manifest_of(simulate_case)["counts"]["rows.rejected.no_response_type"] == 1
    )
    path.write_text('{"prompt": "One?"}\n')
    none = case(folder, tmp_path / "none", "completions")
    none.inputs["input:prompts"] = str(path)
    with pytest.raises(InputError, match="no prompt has a response type"):
        alone(none)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "How?", "tools": [{"type": "function", "function": {"name": "look"}}]}, "tools"),
        (
            {
                "prompt": [
                    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]},
                    {"role": "tool", "content": "water"},
                ]
            },
            "tool_calls",
        ),
    ],
)
def test_prompts_with_tools_are_refused(folder, tmp_path, row, field):
    (tmp_path / "tools.jsonl").write_text(json.dumps(row) + "\n")
    tried = case(folder, tmp_path / "storage", "rlcd", chat="plain")  # no template, which would refuse them before
    tried.inputs["input:prompts"] = str(tmp_path / "tools.jsonl")
    with pytest.raises(InputError, match=rf"prompts \(tools.jsonl:1\): found {field}; expected prompts of texts alone"):
        alone(tried)


def test_nothing_left_is_an_input_error_that_says_why(folder, tmp_path, monkeypatch):
    from rlhf_trainer.simulation import runner

    monkeypatch.setattr(runner, "answer_text", lambda text, chat: ("", False))
    with pytest.raises(InputError, match=r"dropped \{'empty answer': 70\}"):
        alone(case(folder, tmp_path / "empty", "rlcd"))
