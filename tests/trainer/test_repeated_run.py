"""A job with a repeated stage, from its file to its report: one stage a seed, judged as a group."""

import json
import subprocess
from pathlib import Path

import pytest
import warm
from ruamel.yaml import YAML
from tiny import tiny_policy

JUDGE = """
def letters(prompts, responses):
    return [len(set(text)) / 10 for text in responses]

def has_e(prompts, responses):
    return [1.0 if "e" in text else -1.0 for text in responses]
"""
SEEDS = (3, 5, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("repeated")
    tiny_policy(root / "base", seed=1)
    rows = [
        {"prompt": f"How do I stop a fire {index}?", "response": f"Call the brigade {index}."} for index in range(24)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "own_judges.py").write_text(JUDGE)
    return root


def job(**evaluate):
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "repeated"},
        "spec": {
            "inputs": [
                {"name": "base", "source": "base"},
                {"name": "rows", "source": "rows.jsonl", "heldout": 0.5},
            ],
            "stages": [
                {
                    "name": "sft",
                    "repeat": {"seeds": list(SEEDS)},
                    "sft": {
                        "model": {"input": "base"},
                        "data": [{"input": "rows", "split": "train"}],
                        "maxSteps": 2,
                        "batchSize": 4,
                        "maxLength": 64,
                        "learningRate": 0.05,
                        "warmupRatio": 0.0,
                    },
                },
                {
                    "name": "evaluate",
                    "evaluate": {
                        "candidates": [{"stage": "sft"}],
                        "baseline": {"input": "base"},
                        "prompts": [{"input": "rows", "split": "heldout"}],
                        "rewards": [{"function": "own_judges:letters"}],
                        "costs": [{"function": "own_judges:has_e"}],
                        "generation": {"maxNewTokens": 6},
                        "resamples": 200,
                        **evaluate,
                    },
                },
            ],
        },
    }


def run(folder, document):
    path = folder / "job.yaml"
    with path.open("w") as file:
        YAML().dump(document, file)
    command = [warm.python(), "-m", "rlhf_sdk.cli", "run", str(path), "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, json.loads(done.stdout)


@pytest.fixture(scope="module")
def finished(folder):
    done, state = run(folder, job(gates=[{"metric": "harmful_rate", "max": 1}]))
    assert done.returncode == 0, done.stdout + done.stderr
    return state


def product(folder, state, stage):
    return folder / ".rlhf" / "products" / Path(state["stages"][stage]["product"]).name


def test_each_seed_makes_a_model_of_its_own(folder, finished):
    members = [f"sft-s{seed}" for seed in SEEDS]
    assert list(finished["stages"]) == ["prepare", *members, "evaluate", "report"]
    weights = {(product(folder, finished, name) / "model.safetensors").read_bytes() for name in members}
    assert len(weights) == len(SEEDS)


def test_the_group_is_the_mean_of_its_members_and_the_gate_holds_it_alone(folder, finished):
    evaluation = json.loads((product(folder, finished, "evaluate") / "evaluation.json").read_text())
    (group,) = evaluation["groups"]
    assert (group["name"], group["members"]) == ("sft", [f"sft-s{seed}" for seed in SEEDS])
    models = {model["name"]: model for model in evaluation["models"]}
    for metric, number in group["metrics"].items():
        values = [models[name]["metrics"][metric]["value"] for name in group["members"]]
        assert number["values"] == values
        assert number["value"] == pytest.approx(sum(values) / len(values))
    for metric, number in group["differences"].items():
        assert number["values"] == [models[name]["differences"][metric]["value"] for name in group["members"]]
        assert number["low"] <= number["value"] <= number["high"]
    assert [gate["candidate"] for gate in evaluation["gates"]] == ["sft"]


def test_the_report_tells_of_the_group_and_shows_each_run(finished):
    page = Path(finished["report"]).read_text()
    assert "Over seeds" in page
    assert "sft (mean of 3 runs)" in page
    assert "sft-s3, sft-s5, sft-s8" in page


def test_a_gate_that_the_group_does_not_keep_fails_the_job_and_names_the_group(folder, finished):
    done, state = run(folder, job(gates=[{"metric": "length", "max": 0}]))
    assert done.returncode != 0
    assert state["stages"]["evaluate"]["phase"] == "Failed"
    assert [state["stages"][f"sft-s{seed}"]["phase"] for seed in SEEDS] == ["Reused"] * len(SEEDS)
    assert "sft: length is" in done.stdout + done.stderr
    assert "sft-s3: length" not in done.stdout + done.stderr
