"""Tasks of lm-eval in an evaluation: what its own command measures, document by document, however the stage ran."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from stage_gang import Case, alone, gang
from tiny import tiny_policy

from rlhf_api.stages.evaluate import Suite
from rlhf_trainer.evaluation.suites import Examinee
from rlhf_trainer.evaluation.tasks import Documents, load_task, registered_tasks
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.models.load import load_policy

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
    {"name": "choice", "file": {"input": "choice"}, "data": {"input": "choices"}, "calibration": True},
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


def by_lm_eval(model, config, documents, shots, **options):
    """Per-document metrics as lm-eval's own evaluator gives them for a model's folder."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    by_split = {"test": Dataset.from_list(documents)}
    if "shot_rows" in options:
        by_split["shots"] = Dataset.from_list(options.pop("shot_rows"))
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: by_split, "num_fewshot": shots})
    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1)
    results = simple_evaluate(model=lm, tasks=[task], num_fewshot=shots, bootstrap_iters=0, **options)
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


def test_accuracies_are_those_of_lm_evals_own_command(done, folder, tmp_path):
    task = (
        CHOICE
        + f"dataset_path: json\ntest_split: test\ndataset_kwargs: {{data_files: {{test: {folder}/choices.jsonl}}}}\n"
    )
    (tmp_path / "choice.yaml").write_text(task)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "next_word", "--device", "cpu"]
    command += ["--model_args", f"pretrained={folder / 'ppo'},dtype=float32", "--include_path", str(tmp_path)]
    environment = {  # its own: trained stages leave LOCAL_RANK in this process, which tells accelerate of other ranks
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    subprocess.run([*command, "--output_path", str(tmp_path / "out")], check=True, env=environment, capture_output=True)
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]["next_word"]
    metrics = published(done)[0]["models"][1]["metrics"]
    for metric in ("acc", "acc_norm"):
        assert metrics[f"suite.choice.{metric}"]["value"] == results[f"{metric},none"]


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_own_confidence_is_that_of_plain_forwards(done, folder, name):
    evaluation, documents = published(done)
    model, tokenizer = load_policy(str(folder / name), "float32")
    rows = [json.loads(line) for line in (folder / "choices.jsonl").read_text().splitlines()]
    expected = []
    for row in rows:
        scores = []
        for choice in row["choices"]:
            start = tokenizer(row["start"], add_special_tokens=False).input_ids
            ids = tokenizer(f"{row['start']} {choice}", add_special_tokens=False).input_ids
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            scores.append(sum(logs[at - 1, ids[at]].item() for at in range(len(start), len(ids))))
        expected.append(max(np.exp(scores) / np.exp(scores).sum()))
    (entry,) = evaluation["calibration"]
    measured = entry["models"][name]
    assert measured["confidence"]["value"] == pytest.approx(np.mean(expected), abs=1e-5)
    ours = [row for row in documents if (row["suite"], row["model"]) == ("choice", name)]
    assert measured["right"]["value"] == np.mean([row["acc"] for row in ours])
    bins = np.minimum((np.array(expected) * 10).astype(int), 9)
    gaps = np.array([row["acc"] for row in ours]) - expected
    error = sum(abs(gaps[bins == number].sum()) for number in range(10)) / DOCUMENTS
    (of_model,) = [model for model in evaluation["models"] if model["name"] == name]
    assert of_model["metrics"]["suite.choice.ece"]["value"] == pytest.approx(error, abs=1e-5)
    assert sum(entry["n"] for entry in measured["bins"]) == DOCUMENTS


def test_nothing_else_changes_where_calibration_is_measured(done, folder):
    plain = case(folder, folder / "plain", suites=[SUITES[0], {**SUITES[1], "calibration": False}])
    alone(plain)
    evaluation, documents = published(plain)
    measured, measured_documents = published(done)
    assert documents == measured_documents and "calibration" not in evaluation
    for model, with_calibration in zip(evaluation["models"], measured["models"], strict=True):
        names = set(with_calibration["metrics"]) - set(model["metrics"])
        assert names == {"suite.choice.confidence", "suite.choice.ece"}
        assert model["metrics"] == {name: with_calibration["metrics"][name] for name in model["metrics"]}


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


KINDS = {
    "hellaswag": [
        {
            "activity_label": "Work",
            "ctx_a": f"It is {number}",
            "ctx_b": "so",
            "endings": ["a", "b", "c", "d"],
            "label": "1",
        }
        for number in range(6)
    ],
    "arc_easy": [
        {"question": f"What is {number}?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
        for number in range(6)
    ],
    "mmlu_anatomy": [
        {"question": f"Which is {number}?", "choices": ["a", "b", "c", "d"], "answer": 2} for number in range(6)
    ],
    "winogrande": [
        {"sentence": f"The {number} _ is.", "option1": "a", "option2": "b", "answer": "1"} for number in range(6)
    ],
    "gsm8k": [{"question": f"What is {number}?", "answer": f"It is.\n#### {number}"} for number in range(6)],
}


@pytest.mark.parametrize("task", KINDS)
def test_tasks_of_every_kind_give_what_lm_evals_own_loop_gives(folder, tmp_path, task):
    from lm_eval.tasks._yaml_loader import load_yaml

    fields = {"name": "kind", "task": task, "shots": 2, "data": {"input": "x"}, "calibration": task != "gsm8k"}
    suite = Suite.model_validate(fields)
    loaded = load_task(suite, "suites[0]", Documents(write(tmp_path / "rows.jsonl", KINDS[task])))
    config = load_yaml(registered_tasks()[task])
    config |= {"dataset_path": None, "dataset_name": None, "dataset_kwargs": None}
    config |= {"test_split": "test", "fewshot_split": "test", "validation_split": None, "training_split": None}
    config.pop("tag", None)
    if task == "gsm8k":  # else a model of a few thousand weights writes 256 tokens an answer
        for generation in (loaded.task.config.generation_kwargs, config["generation_kwargs"]):
            generation["max_gen_toks"] = 4
        for request in loaded.task.instances:
            request.arguments[1]["max_gen_toks"] = 4
    _, expected = by_lm_eval(folder / "sft", config, KINDS[task], 2)
    strict = expected[0]["filter"]
    rows = Examinee(*load_policy(str(folder / "sft"), "float32")).rows(loaded, range(6))
    for metric in loaded.metrics:
        assert [row[metric] for row in rows] == [row[metric] for row in expected if row["filter"] == strict]
    for row, plain in zip(rows, expected, strict=False) if suite.calibration else ():
        shares = np.exp([score for score, _ in plain["filtered_resps"]])
        assert row["confidence"] == pytest.approx(shares.max() / shares.sum(), rel=1e-4)
        assert row["right"] == plain["acc"]


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_through_a_chat_template_with_shots_of_other_rows_it_gives_what_lm_evals_own_loop_gives(folder, tmp_path, name):
    rows = [json.loads(line) for line in (folder / "choices.jsonl").read_text().splitlines()]
    suite = {"name": "a", "file": {"input": "f"}, "data": {"input": "x"}, "shots": 3, "chat": True, "limit": 12}
    suite["shotsFrom"] = {"input": "y"}
    shots_from = Documents(write(tmp_path / "shots.jsonl", rows[20:]))
    loaded = load_task(
        Suite.model_validate(suite),
        "suites[0]",
        Documents(folder / "choices.jsonl"),
        folder / "choice.yaml",
        shots_from,
    )
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(folder / "choice.yaml") | {"test_split": "test", "fewshot_split": "shots"}
    _, expected = by_lm_eval(
        folder / name, config, rows[:12], 3, shot_rows=rows[20:], apply_chat_template=True, fewshot_as_multiturn=True
    )
    asked = Examinee(*load_policy(str(folder / name), "float32"))
    answers = asked.rows(loaded, range(6)) + asked.rows(loaded, range(6, 12))
    assert [[row["acc"], row["acc_norm"]] for row in answers] == [[row["acc"], row["acc_norm"]] for row in expected]
    (written,) = {len(asked._written[key]) for key in asked._written}
    assert written == 12 * 4
    contexts = {request.args[0] for request in asked._written["a"]}
    assert len(contexts) == 12 and contexts.isdisjoint(request.args[0] for request in loaded.task.instances)
    assert {context for row in expected for context, _ in row["arguments"]} == contexts


@pytest.mark.parametrize("task", KINDS)
def test_a_document_is_never_its_own_shot(tmp_path, task):
    suite = Suite.model_validate({"name": "kind", "task": task, "shots": 5, "data": {"input": "x"}})
    loaded = load_task(suite, "suites[0]", Documents(write(tmp_path / "rows.jsonl", KINDS[task])))
    for request in loaded.task.instances:
        context = request.args[0]
        numbers = [int(number) for number in re.findall(r"(?:It is|What is|Which is|The) (\d)", context)]
        assert sorted(set(numbers)) == list(range(6)) and numbers.count(request.doc_id) == 1, context


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "lambada_opnai"}, "did you mean lambada_openai"),
        ({"task": "squadv2"}, "a task with `class`"),
        ({"task": "wikitext"}, "cannot read these rows"),
        ({"task": "humaneval"}, "expected a task that needs no network"),
        ({"task": "mmlu"}, "expected one of lm-eval's"),
        ({"task": "hellaswag"}, "found the columns text; expected those of the task's own data set"),
        ({"shots": 40}, r"shots: found 40; expected at most 39, which the rows give"),
        ({"calibration": True}, "expected one of type multiple_choice with acc"),
    ],
)
def test_what_a_suite_cannot_do_is_told_before_any_model_is_loaded(folder, change, words):
    suite = Suite.model_validate({"name": "a", "task": "lambada_openai", "data": {"input": "x"}, **change})
    with pytest.raises(InputError, match=words) as error:
        load_task(suite, "stage eval, evaluate.suites[0]", Documents(folder / "lambada.jsonl"))
    assert str(error.value).startswith("stage eval, evaluate.suites[0]")


def test_documents_may_be_a_table_and_no_row_beyond_the_limit_is_read(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text('text\n"we go to the house"\n"they help me"\n"a,row,of,too,many"\n' + "x" * 40 + ",1,2\n")
    suite = Suite.model_validate({"name": "a", "task": "lambada_openai", "data": {"input": "x"}, "limit": 2})
    assert load_task(suite, "suites[0]", Documents(table)).documents == 2
    with pytest.raises(InputError, match=r"suites\[0\]\.data: .*rows\.csv:4: found 3 cells"):
        load_task(suite.model_copy(update={"limit": None}), "suites[0]", Documents(table))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("process_docs: !function utils.process", "tag"),
        ("include: /etc/passwd", "names no code"),
        ("class: os.system", "names no code"),
        ("metric_list: [{metric: bertscore}]", "expected a metric that lm-eval itself has"),
        ("metric_list: [{metric: [acc]}]", "expected a metric that lm-eval itself has"),
        ("metric_list: [acc]", "expected a metric that lm-eval itself has"),
        ("repeats: many", "repeats: found 'many'; expected a whole number"),
        ("metric_list: 7", "metric_list: found 7; expected a list"),
        ("output_type: [multiple_choice]", "cannot read these rows"),
        ("target_delimiter: ' '\ntarget_delimiter: '-'", "given twice"),
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
        load_task(suite, "suites[0]", Documents(folder / "choices.jsonl"), path)
