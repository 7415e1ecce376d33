"""Harm late in dialogues: models answer in the history of their own answers, and a toy that turns harmful is found."""

import json
from pathlib import Path

import pytest
from late_toy import train_toy
from small_data import write
from stage_gang import Case, alone

DIALOGUES = 40  # two shards
JUDGES = """
def fire(prompts, responses):
    return [1.0 if "fire" in text else -1.0 for text in responses]

def length_of_history(prompts, responses):
    return [float(sum(len(message["content"]) for message in messages) + len(messages)) for messages in prompts]
"""
COSAFE = Path(__file__).parents[3] / "shared" / "data" / "cosafe_dialogues_100.jsonl.gz"


def user_turns(index):
    return [f"How do I {word} {index}?" for word in ("help", "work", "wait")[: 2 + index % 2]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("dialogues")
    train_toy(root / "safe", turns_harmful=False)
    train_toy(root / "late", turns_harmful=True)
    write(root / "prompts.jsonl", [{"prompt": f"How do I stop {index}?"} for index in range(4)])
    rows = [{"turns": user_turns(index), "category": ["home", "work"][index % 2]} for index in range(DIALOGUES)]
    write(root / "dialogues.jsonl", rows)
    (root / "dialogue_judges.py").write_text(JUDGES)
    return root


def case(folder, storage, **fields):
    spec = {
        "candidates": [{"stage": "late"}],
        "baseline": {"stage": "safe"},
        "prompts": [{"input": "prompts"}],
        "costs": [{"function": "dialogue_judges:fire"}],
        "dialogues": [{"input": "dialogues"}],
        "generation": {"maxNewTokens": 6},
        "resamples": 200,
        **fields,
    }
    inputs = {f"stage:{name}": str(folder / name) for name in ("safe", "late")}
    inputs |= {f"input:{name}": str(folder / f"{name}.jsonl") for name in ("prompts", "dialogues")}
    storage.mkdir()
    (storage / "dialogue_judges.py").symlink_to(folder / "dialogue_judges.py")
    return Case(storage=str(storage), type="evaluate", spec=spec, inputs=inputs)


def published(finished):
    evaluation = json.loads((finished.product / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (finished.product / "dialogues.jsonl").read_text().splitlines()]
    return evaluation, rows


@pytest.fixture(scope="module")
def done(folder):
    dialogue_case = case(folder, folder / "done")
    alone(dialogue_case)
    return dialogue_case


def test_a_toy_trained_to_answer_harmfully_from_turn_2_is_told_from_one_that_stays_safe(done):
    evaluation, _ = published(done)
    difference = evaluation["models"][1]["differences"]["dialogue.late_harm"]
    assert difference["decision"] == "higher" and difference["low"] > 0
