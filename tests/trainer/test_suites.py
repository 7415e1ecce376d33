"""Tasks of lm-eval in an evaluation: what its own command measures, document by document, however the stage ran."""

import json

import numpy as np
import pytest
from stage_gang import Case, alone, gang
from tiny import tiny_policy

from rlhf_api.stages.evaluate import Suite
from rlhf_trainer.evaluation.tasks import load_task, registered_tasks
from rlhf_trainer.exits import GuardTripped, InputError

WORDS = ("water", "fire", "help", "work", "you", "me", "it", "good")
CHOICE = """
task: next_word
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
DOCUMENTS = 40  # two shards


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("suites")
    for seed, name in enumerate(("sft", "ppo"), 1):
        tiny_policy(root / name, seed=seed)
    write(root / "prompts.jsonl", [{"prompt": f"How do I stop a fire {index}?"} for index in range(4)])
    texts = [f"We will stop the fire {index} with {WORDS[index % len(WORDS)]}" for index in range(DOCUMENTS)]
    write(root / "lambada.jsonl", [{"text": text} for text in texts])
    rows = [
        {"start": f"Please {WORDS[index % 8]}", "choices": list(WORDS[:4]), "answer": index % 4}
        for index in range(DOCUMENTS)
    ]
    write(root / "choices.jsonl", rows)
    (root / "choice.yaml").write_text(CHOICE)
    return root


SUITES = [
    {"name": "lambada", "task": "lambada_openai", "data": {"input": "lambada"}, "shots": 2},
    {"name": "choice", "file": {"input": "choice"}, "data": {"input": "choices"}},
]


def case(folder, storage, **fields):
    spec = {
        "candidates": [{"stage": "ppo"}],
        "baseline": {"stage": "sft"},
        "prompts": [{"input": "prompts"}],
        "generation": {"maxNewTokens": 4},
        "resamples": 200,
        "suites": SUITES,
        **fields,
    }
    inputs = {f"stage:{name}": str(folder / name) for name in ("sft", "ppo")}
    inputs |= {f"input:{name}": str(folder / f"{name}.jsonl") for name in ("prompts", "lambada", "choices")}
    inputs["input:choice"] = str(folder / "choice.yaml")
    storage.mkdir()
    return Case(storage=str(storage), type="evaluate", spec=spec, inputs=inputs)


def published(finished):
    evaluation = json.loads((finished.product / "evaluation.json").read_text())
    documents = [json.loads(line) for line in (finished.product / "documents.jsonl").read_text().splitlines()]
    return evaluation, documents


@pytest.fixture(scope="module")
def done(folder):
    suites_case = case(folder, folder / "done")
    alone(suites_case)
    return suites_case


def by_lm_eval(model, config, documents, shots):
    """Per-document metrics as lm-eval's own evaluator gives them for a model's folder."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    dataset = Dataset.from_list(documents)
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: {"test": dataset}, "num_fewshot": shots})
    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1)
    results = simple_evaluate(model=lm, tasks=[task], num_fewshot=shots, bootstrap_iters=0)
    rows = results["samples"][task.config.task]
    return results["results"][task.config.task], sorted(rows, key=lambda row: row["doc_id"])


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_accuracies_are_those_of_lm_evals_own_evaluator(done, folder, name):
    from lm_eval.tasks._yaml_loader import load_yaml

    evaluation, documents = published(done)
    (model,) = [model for model in evaluation["models"] if model["name"] == name]
    lambada = load_yaml(registered_tasks()["lambada_openai"]) | {"dataset_path": None, "dataset_name": None}
    lambada |= {"fewshot_split": "test"}
    lambada.pop("tag")
    choice = load_yaml(folder / "choice.yaml") | {"test_split": "test"}
    for suite, config, file, shots in (("lambada", lambada, "lambada", 2), ("choice", choice, "choices", 0)):
        rows = [json.loads(line) for line in (folder / f"{file}.jsonl").read_text().splitlines()]
        totals, expected = by_lm_eval(folder / name, config, rows, shots)
        ours = [row for row in documents if (row["suite"], row["model"]) == (suite, name)]
        assert [row["acc"] for row in ours] == [row["acc"] for row in expected]
        metric = f"suite.{suite}" if suite == "lambada" else "suite.choice.acc"
        assert model["metrics"][metric]["value"] == totals["acc,none"]
        assert model["metrics"][metric]["n"] == DOCUMENTS


def test_differences_are_paired_by_document(done):
    evaluation, documents = published(done)
    values = {
        name: np.array([row["acc_norm"] for row in documents if (row["suite"], row["model"]) == ("choice", name)])
        for name in ("sft", "ppo")
    }
    difference = evaluation["models"][1]["differences"]["suite.choice"]
    assert difference["value"] == pytest.approx((values["ppo"] - values["sft"]).mean())
    assert difference["n"] == DOCUMENTS and difference["low"] <= difference["value"] <= difference["high"]
    assert [suite["primary"] for suite in evaluation["suites"]] == ["acc", "acc_norm"]


def test_two_ranks_and_a_restart_give_the_same_bytes(done, folder):
    both, resumed = (case(folder, folder / name) for name in ("both", "resumed"))
    gang(2, [both], folder)
    shards = done.work / "shards"
    for path in shards.glob("suites/*/sft/000000.json"):  # as a killed run leaves it: some shards are there
        target = resumed.work / "shards" / path.relative_to(shards)
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    alone(resumed)
    for finished in (both, resumed):
        for name in ("evaluation.json", "documents.jsonl", "samples.jsonl"):
            assert (finished.product / name).read_bytes() == (done.product / name).read_bytes()


def test_a_gate_of_a_suite_needs_the_whole_interval_of_the_difference(done, folder):
    difference = published(done)[0]["models"][1]["differences"]["suite.choice.acc"]
    margins = (-difference["low"] + 0.01, -difference["low"] - 0.01)
    assert -margins[1] < difference["value"], "the estimate alone would pass"
    for margin, name in zip(margins, ("wide", "narrow"), strict=True):
        gated = case(folder, folder / name, gates=[{"metric": "suite.choice.acc", "noWorse": margin}])
        if name == "wide":
            alone(gated)
        else:
            with pytest.raises(GuardTripped, match="no worse than by"):
                alone(gated)
        assert published(gated)[0]["gates"][0]["passed"] is (name == "wide")


def test_a_gate_names_a_metric_that_the_task_has(folder):
    unknown = case(folder, folder / "unknown", gates=[{"metric": "suite.lambada.f1", "noWorse": 0.1}])
    with pytest.raises(InputError, match=r"suite\.lambada"):
        alone(unknown)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "lambada_opnai"}, "did you mean lambada_openai"),
        ({"task": "mmlu"}, "expected one of lm-eval's"),
        ({"task": "hellaswag"}, "found the columns text; expected those of the task's own data set"),
        ({"shots": 40}, "expected fewer shots than documents"),
    ],
)
def test_what_a_suite_cannot_do_is_told_before_any_model_is_loaded(folder, change, words):
    suite = Suite.model_validate({"name": "a", "task": "lambada_openai", "data": {"input": "x"}, **change})
    with pytest.raises(InputError, match=words) as error:
        load_task(suite, "stage eval, evaluate.suites[0]", folder / "lambada.jsonl")
    assert str(error.value).startswith("stage eval, evaluate.suites[0]")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("process_docs: !function utils.process", "tag"),
        ("include: /etc/passwd", "names no code"),
        ("class: os.system", "names no code"),
        ("metric_list: [{metric: bertscore}]", "expected a metric that lm-eval itself has"),
        ('doc_to_text: "{{ start.__class__.__mro__ }}"', "SecurityError"),
        ('doc_to_text: "{{ missing }}"', "found the columns answer, choices, start"),
    ],
)
def test_a_task_file_brings_in_no_code(folder, tmp_path, line, words):
    key = line.split(":")[0]
    lines = [text for text in CHOICE.strip().splitlines() if not text.startswith(key)]
    if key == "metric_list":
        lines = [text for text in lines if not text.startswith((" ", "metric_list"))]
    path = tmp_path / "task.yaml"
    path.write_text("\n".join([*lines, line]) + "\n")
    suite = Suite.model_validate({"name": "a", "file": {"input": "f"}, "data": {"input": "x"}})
    with pytest.raises(InputError, match=words):
        load_task(suite, "suites[0]", folder / "choices.jsonl", path)
