"""Rows that a model's chat template refuses: bad rows, in prepare and in the stages alike; never the end of a stage."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import tiny

from rlhf_api.fields import DataRef
from rlhf_api.job import Input
from rlhf_api.stage_file import StageInput
from rlhf_api.stages import CostModel, Evaluate, Ppo, RewardModel, Rules, Sft, Simulate
from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer, write_turns
from rlhf_trainer.data.checks import Encodings, FirstRows, LoadedReader, check_of, readers_of_text
from rlhf_trainer.data.load import load_completions, load_conversations, load_pairs, load_prompts
from rlhf_trainer.data.pairs import encode_pairs
from rlhf_trainer.data.rows import Dialogue, Where
from rlhf_trainer.data.template import TemplateProblem
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.readers import readers
from rlhf_trainer.inspection.templates import checks_of
from rlhf_trainer.stages import sft

ALTERNATE = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
TWICE = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
ANSWER = {"role": "assistant", "content": "yes"}


def strict(tokenizer):
    """A template that takes no system turn and no role twice."""
    tokenizer.chat_template = ALTERNATE + tiny.TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    strict(tiny.tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer():
    tokenizer = strict(tiny.tiny_tokenizer())
    prepare_tokenizer(tokenizer)
    return tokenizer


class Stage(SimpleNamespace):
    """A stage's inputs: `rows` with its entry of the job, or as an earlier stage's product; and models."""

    seed = 0

    def input(self, reference):
        return self.entries[reference.key]


@pytest.fixture
def stage(tmp_path, model):
    stage = Stage(storage=tmp_path, entries={"input:base": StageInput(path=str(model), digest="0" * 64)})

    def write(rows, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry = Input(name="rows", source="rows.jsonl", **fields)
        stage.entries["input:rows"] = StageInput(path=str(path), digest="0" * 64, input=entry)
        stage.entries["stage:made"] = StageInput(path=str(path), digest="0" * 64, stageType="simulate")

    stage.write = write
    return stage


ROWS, MADE = [DataRef(input="rows")], [DataRef(stage="made")]
CHAT = [{"messages": [*TWICE, ANSWER]}, *({"messages": [TWICE[0], ANSWER]} for _ in range(9))]
PROMPTS = [{"prompt": TWICE}, *({"prompt": f"q {n}"} for n in range(9))]
PAIRS = [
    {"prompt": TWICE, "chosen": "a", "rejected": "b"},
    *({"prompt": f"q {n}", "chosen": "a", "rejected": "b"} for n in range(9)),
]
TYPED = {"completion": "a", "response_type": "comply", "rank": 0}


@pytest.mark.parametrize(
    ("load", "rows"),
    [
        (load_conversations, CHAT),
        (load_prompts, PROMPTS),
        (load_pairs, PAIRS),
        (load_completions, [row | TYPED for row in PROMPTS]),
    ],
)
def test_a_row_that_the_template_refuses_is_a_bad_row(load, rows, stage, tokenizer):
    check = check_of(tokenizer, "grader" if load is load_completions else "row")
    stage.write(rows)
    with pytest.raises(
        InputError, match=r"(?s)1 of 10 rows are bad, more than maxBadRows 0.*rows.jsonl:1: .*must alternate"
    ):
        load(stage, ROWS, check)
    stage.write(rows, maxBadRows=0.1)
    loaded, counts = load(stage, ROWS, check)
    assert (len(loaded), counts.used, counts.bad) == (9, 9, 1)


def test_a_row_that_a_stage_made_is_rejected(stage, tokenizer):
    stage.write(CHAT)
    loaded, counts = load_conversations(stage, MADE, check_of(tokenizer))
    assert (len(loaded), counts.bad, dict(counts.rejected)) == (9, 0, {"refused by the chat template": 1})


def test_stages_encode_as_they_read(stage, tokenizer):
    stage.write(CHAT, maxBadRows=0.1)
    spec = Sft(model={"input": "base"}, data=[{"input": "rows"}], maxLength=64)
    data, counts = sft._data(stage, spec, tokenizer, [])
    assert (len(data.encoded), counts["rows.bad"], counts["rows.used"]) == (9, 1, 9)
    stage.write(PAIRS, maxBadRows=0.1)
    spec = RewardModel(model={"input": "base"}, data=[{"input": "rows"}], maxLength=64)
    pairs, counts, _ = encode_pairs(stage, spec, tokenizer, 0)
    assert (len(pairs), counts["rows.bad"]) == (9, 1)


def test_encodings_are_those_of_the_rows_that_are_left(stage, tokenizer):
    encodings = Encodings(lambda row: encode_prompt(tokenizer, row.messages))
    stage.write([{"prompt": f"how {n}"} for n in (1, 2, 1, 3)], heldout=0.5)
    rows, _ = load_prompts(
        stage, [DataRef(input="rows", split="train"), DataRef(input="rows", split="heldout")], encodings
    )
    assert [encodings[row] for row in rows] == [encode_prompt(tokenizer, row.messages) for row in rows]


def test_stages_that_do_not_encode_check_what_their_models_read(stage):
    stage.write([row | TYPED for row in PROMPTS], maxBadRows=0.1)
    model, rows = {"input": "base"}, [{"input": "rows"}]
    specs = {
        "prompts": Evaluate(baseline=model, candidates=[{"stage": "ppo"}], prompts=rows),
        "completions": Rules(policy={"input": "policy"}, reward={"function": "a:b"}, grader=model, completions=rows),
    }
    stage.entries["stage:ppo"] = stage.entries["input:base"]
    for field, spec in specs.items():
        load = load_prompts if field == "prompts" else load_completions
        _, counts = load(stage, ROWS, *checks_of(stage, readers(spec, field)))
        assert (counts.used, counts.bad) == (9, 1)


def test_every_prompt_of_a_dialogue_is_tried_with_answers_in_its_history(tokenizer):
    talk = Dialogue(tuple({"role": "user", "content": text} for text in "abc"), None, Where("rows.jsonl", 1))
    check_of(tokenizer)(talk)
    tokenizer.chat_template = (
        "{% if messages | length > 4 %}{{ raise_exception('two questions at most') }}{% endif %}"
        + tokenizer.chat_template
    )
    with pytest.raises(TemplateProblem, match=r"messages of user, assistant, user, assistant, user .*two questions"):
        check_of(tokenizer)(talk)


def test_who_reads_what():
    model, rows, rules = {"input": "base"}, [{"input": "rows"}], {"stage": "rules"}
    completions = {"base": "row", "judge": "prompt", "grader": "grader"}
    rules_stage = Rules(policy={"input": "p"}, reward={"input": "judge"}, grader={"input": "grader"}, completions=rows)
    judges = {"rewards": [{"input": "judge"}, {"function": "a:b"}], "costs": [{"stage": "cost"}]}
    graded = {"rules": rules | {"grader": {"input": "grader"}}}
    ppo = Ppo(policy=model, rewards=[{"input": "judge"}], prompts=rows, **graded)
    readings = {
        (type(spec).__name__, field): {(reader.reference.label, reader.reading) for reader in readers(spec, field)}
        for spec, field in (
            (Sft(model=model, data=rows), "data"),
            (CostModel(model=model, data=rows), "test"),
            (ppo, "prompts"),
            (ppo, "ptx.data"),
            (Evaluate(baseline=model, candidates=[{"stage": "ppo"}], prompts=rows, **judges), "prompts"),
            (
                Evaluate(
                    baseline=model, candidates=[{"stage": "ppo"}], prompts=rows, dialogues=rows, **judges, **graded
                ),
                "dialogues",
            ),
            (rules_stage, "completions"),
            (rules_stage, "gold"),
            (Simulate(model=model, prompts=rows, rlcd={}), "prompts"),
            (Simulate(model=model, prompts=rows, rlcd={}, chat="plain"), "prompts"),
        )
    }
    base, grader = ("base", "row"), ("grader", "grader")
    assert readings == {
        ("Sft", "data"): {base},
        ("CostModel", "test"): {base},
        ("Ppo", "prompts"): {base, grader},
        ("Ppo", "ptx.data"): {base},
        ("Evaluate", "prompts"): {base, ("ppo", "row"), ("judge", "judge"), ("cost", "judge")},
        ("Evaluate", "dialogues"): {base, ("ppo", "row"), ("judge", "judge"), ("cost", "judge")},
        ("Rules", "completions"): {("judge", completions["judge"]), grader},
        ("Rules", "gold"): {grader},
        ("Simulate", "prompts"): set(),
    }


def test_an_answer_that_melts_into_its_prompt_is_refused():
    """Its ids would not be those of the template's rendering, nor could a rollout write them."""
    tokenizer = tiny.tiny_tokenizer()
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary["model"]["vocab"]["ĊĊ"] = max(vocabulary["model"]["vocab"].values()) + 1
    vocabulary["model"]["merges"].append(["Ċ", "Ċ"])
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(vocabulary))
    prepare_tokenizer(tokenizer)
    question = {"role": "user", "content": "a"}
    write_turns(tokenizer, [question, ANSWER], 1)
    with pytest.raises(
        TemplateProblem, match=r"begins with '\\n\\nyes.*, which is one token with the end of its prompt"
    ):
        write_turns(tokenizer, [question, {"role": "assistant", "content": "\n\nyes"}], 1)


def test_first_rows_alone_are_checked():
    for most, checked, unchecked in ((2, [0, 1], 2), (4, [0, 1, 2, 3], 0), (None, [0, 1, 2, 3], 0)):
        checked_rows = []
        rows = FirstRows([checked_rows.append], most)
        for row in range(4):
            rows(row)
        assert (checked_rows, rows.unchecked) == (checked, unchecked)


def test_judges_read_text_only_where_they_cannot_take_a_models_ids(tokenizer):
    stranger = tiny.tiny_tokenizer(words=["alpha", "beta"])
    prepare_tokenizer(stranger)
    base = LoadedReader("base", tokenizer, "row")
    same, strange = (
        LoadedReader(name, reader_tokenizer, "judge")
        for name, reader_tokenizer in (("same", tokenizer), ("strange", stranger))
    )
    assert readers_of_text([base, same, strange]) == [base, strange]
    assert readers_of_text([LoadedReader("base", stranger, "row"), same, strange, base]) == [
        LoadedReader("base", stranger, "row"),
        same,
        strange,
        base,
    ]
    assert readers_of_text([strange]) == []
