"""A storage folder as a finished or failed run leaves it, written by hand: what the report is made of."""

import json
import math
import random
from pathlib import Path

import numpy as np

from rlhf_api.job import RLHFJob
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_api.product import Manifest
from rlhf_api.stage_file import Directories, Outcome, StageFile, StageInput
from rlhf_api.stages.evaluate import Gate
from rlhf_api.store import write_resolved
from rlhf_trainer.evaluation import gates, groups, table
from rlhf_trainer.evaluation.distributions import distributions
from rlhf_trainer.evaluation.judged import Judged
from rlhf_trainer.statistics.intervals import Intervals

INPUTS = {"base": "a", "chat": "b", "prefs": "c", "heldout": "d"}
JOB = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "beaver"},
    "spec": {
        "seed": 7,
        "inputs": [
            {"name": "base", "source": "hf://org/base-135m@4f2c9d1"},
            {"name": "chat", "source": "hf://datasets/org/chat@9c1d0aa", "licence": "CC BY 4.0"},
            {"name": "prefs", "source": "hf://datasets/org/safe-preferences@77ab310", "heldout": 0.1},
            {"name": "heldout", "source": "pvc://models/eval/prompts.jsonl"},
        ],
        "stages": [
            {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "chat"}]}},
            {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}], "members": 3}},
            {"name": "cost", "costModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}]}},
            {
                "name": "ppo",
                "ppo": {
                    "policy": {"stage": "sft"},
                    "rewards": [{"stage": "reward"}],
                    "costs": [{"stage": "cost", "limit": 0.0}],
                    "prompts": [{"input": "prefs"}],
                    "steps": 40,
                },
            },
            {
                "name": "evaluate",
                "evaluate": {
                    "candidates": [{"stage": "ppo"}],
                    "baseline": {"stage": "sft"},
                    "prompts": [{"input": "heldout"}],
                    "rewards": [{"stage": "reward"}, {"function": "gold:distinct_words"}],
                    "costs": [{"stage": "cost"}, {"function": "gold:no_care"}],
                    "gates": [{"metric": "harmful_rate.no_care", "max": 0.6}],
                },
            },
            {"name": "report", "report": {"title": "Careful answers to everyday risks"}},
        ],
    },
}
VERSIONS = {"python": "3.11.9", "torch": "2.9.0", "transformers": "5.0.0", "deepspeed": "0.18.2"}


def build(root: Path, *, job=None, outcomes=None, skip=(), hostile="") -> StageFile:
    """Write products, work folders and the report's stage file; `skip`: stages without a product."""
    job = RLHFJob.model_validate_json(json.dumps(job or JOB))
    names = [entry.name for entry in job.spec.inputs]
    resolved = Resolved(
        {name: ResolvedInput(f"{index + 1:x}" * 64, f"/in/{name}") for index, name in enumerate(names)},
        {"gold:distinct_words": "e" * 64, "gold:no_care": "f" * 64},
    )
    planned = plan(job, resolved)
    work = root / "work" / "uid-1"
    (work / "prepare").mkdir(parents=True)
    write_resolved(work / "prepare" / "resolved.json", resolved)
    provenance = {name: _provenance(name, hostile) for name in names}
    (work / "prepare" / "provenance.json").write_text(json.dumps(provenance))
    stage_inputs = {}
    for stage in planned.stages[1:-1]:
        folder = work / stage.name
        folder.mkdir()
        (folder / "stage.json").write_text(json.dumps({"type": stage.type, "digest": stage.digest}))
        rows = _rows(stage.type)
        if stage.name in skip:
            _lines(folder / "metrics.jsonl", rows[: len(rows) // 2])
            continue
        product = root / "products" / stage.product
        product.mkdir(parents=True)
        _product(product, stage, rows, hostile)
        stage_inputs[f"stage:{stage.name}"] = StageInput(path=str(product), digest=stage.digest, stageType=stage.type)
    last = planned.stages[-1]
    (work / last.name).mkdir()
    return StageFile(
        version="1",
        job=job.metadata.name,
        uid="uid-1",
        stage=last.name,
        type="report",
        digest=last.digest,
        spec=last.spec,
        seed=last.seed,
        execution=last.execution,
        inputs=stage_inputs,
        outcomes={name: Outcome.model_validate(value) for name, value in (outcomes or {}).items()},
        directories=Directories(storage=str(root), work=str(work / last.name), job=str(root)),
    )


def _provenance(name, hostile):
    if name == "base":
        return {
            "kind": "model",
            "commit": "4f2c9d1e08aa",
            "licence": "Apache-2.0",
            "bytes": 91_234_567,
            "architecture": "LlamaForCausalLM",
            "parameters": 134_515_008,
        }
    counts = {"rows.read": 2000, "rows.used": 1941, "rows.bad": 4, "rows.rejected.inconsistent_labels": 55}
    return {
        "kind": "data",
        "commit": hostile or "77ab3100cc12",
        "licence": None,
        "counts": counts,
        "quality": [_quality(hostile)],
        "twins": [_twins(hostile)] if name == "heldout" else [],
    }


def _quality(hostile):
    return {
        "uses": [hostile or "stage sft, sft.data[0]"],
        "rows": 1941,
        "answers": 3882,
        "repeatedPrompts": 0.25,
        "repeatedAnswers": 0.02,
        "promptLength": {"mean": 61.5, "median": 48.0},
        "answerLength": {"mean": 320.2, "median": 287.0},
        "distinct2": 0.47,
        "repetitive": 0.013,
        "repetitiveFrom": 0.3,
        "sampled": 1000,
    }


def _twins(hostile):
    example = {"prompt": "how do i  light a fire", "twin": hostile or "how do i light a fire", "likeness": 0.913}
    return {
        "where": "stage evaluate, evaluate.prompts[0]",
        "different": 64,
        "compared": 64,
        "exact": 2,
        "near": 1,
        "stages": {"sft": 3, "ppo": 0},
        "examples": [example | {"exact": False, "stages": ["sft"]}],
        "text": f"3 of 64 different prompts of evaluate are, or nearly are, prompts that {hostile or 'sft (3)'} read.",
    }


def _product(product, stage, rows, hostile):
    metrics, counts, notes = {}, {}, []
    if rows:
        _lines(product / "metrics.jsonl", rows)
        (product / "timings.json").write_text(json.dumps(_timings(stage.type, len(rows))))
    if stage.type in ("sft", "ppo", "rewardModel", "costModel"):
        config = {"architectures": [hostile or "LlamaForCausalLM"], "num_hidden_layers": 30, "hidden_size": 576}
        (product / "config.json").write_text(json.dumps(config))
        header = json.dumps({"w": {"dtype": "F32", "shape": [576, 233_588], "data_offsets": [0, 4]}}).encode()
        (product / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    if stage.type == "ppo":
        metrics = {"cost.cost": -0.1437, "lambda.cost": 3.21, "kl": 3.05, "steps": 40}
    if stage.type in ("rewardModel", "costModel"):
        metrics = _preference(stage.type)
        counts = {"rows.read": 2000, "rows.used": 1941, "pairs.train": 1844, "pairs.heldout": 97}
    if stage.type == "evaluate":
        evaluation, samples = evaluate(hostile)
        (product / "evaluation.json").write_text(json.dumps(evaluation))
        _lines(product / "samples.jsonl", samples)
    manifest = Manifest(
        type=stage.type,
        digest=stage.digest,
        recipe=1,
        job="beaver",
        stage=stage.name,
        spec=stage.spec,
        seed=stage.seed,
        inputs={},
        files={},
        versions=VERSIONS,
        counts=counts,
        metrics=metrics,
        notes=[hostile] if hostile else notes,
    )
    (product / "manifest.json").write_text(manifest.model_dump_json())


def _preference(kind):
    bins = [
        {
            "low": 0.5 + i / 10,
            "high": 0.6 + i / 10,
            "n": 30 - 4 * i,
            "confidence": 0.55 + i / 10,
            "right": 0.52 + i / 10,
        }
        for i in range(5)
    ]
    metrics = {
        "accuracy": {"value": 0.742, "low": 0.646, "high": 0.819, "n": 97, "method": "wilson"},
        "accuracy_shorter_wins": {"value": 0.515, "low": 0.417, "high": 0.612, "n": 97, "method": "wilson"},
        "accuracy_members": [0.72, 0.74, 0.73],
        "ece": {"value": 0.041, "low": None, "high": None, "n": 97, "method": "none"},
        "ece_bins": bins,
        "score_std": 0.81,
    }
    if kind == "costModel":
        metrics["sign_accuracy_majority"] = {"value": 0.54, "low": None, "high": None, "n": 97, "method": "none"}
        metrics["sign_accuracy"] = {"value": 0.861, "low": 0.78, "high": 0.92, "n": 97, "method": "wilson"}
    return metrics


def _rows(kind):
    r = random.Random(kind)
    if kind == "sft":
        return [
            {
                "step": s,
                "loss": 1.9 * math.exp(-s / 30) + 1.1 + r.gauss(0, 0.05),
                "grad_norm": 1 + r.random(),
                "learning_rate": 1e-4 * (1 - s / 80),
                "tokens": 2000 + s,
                "epoch": s / 80,
            }
            for s in range(1, 81)
        ]
    if kind in ("rewardModel", "costModel"):

        def row(s):
            metrics = {
                "step": s,
                "loss": 0.7 * math.exp(-s / 60) + r.gauss(0, 0.03),
                "accuracy": min(1, 0.5 + s / 250 + r.gauss(0, 0.04)),
                "margin": s / 60,
                "grad_norm": 2.0,
            }
            if kind == "costModel":
                metrics["sign_accuracy"] = min(1, 0.55 + s / 250 + r.gauss(0, 0.03))
            return metrics

        return [row(s) for s in range(1, 117)]
    if kind == "ppo":
        rows = []
        for s in range(1, 41):
            t = s / 40
            rows.append(
                {
                    "step": s,
                    "loss": 0.1 + r.gauss(0, 0.02),
                    "reward": 0.4 + 0.7 * t + r.gauss(0, 0.08),
                    "reward.reward": 0.4 + 0.7 * t,
                    "cost.cost": 0.65 * (1 - 1.25 * t) + r.gauss(0, 0.06),
                    "lambda.cost": 0.2 * math.exp(4.4 * min(t, 0.7) - max(0, t - 0.7)),
                    "kl": 3.1 * t**1.3 + 0.1 * r.random(),
                    "length": 26 - 3 * t + r.gauss(0, 0.5),
                    "entropy": 2.3 - 0.5 * t + r.gauss(0, 0.03),
                    "explained_variance": None if s == 1 else min(0.9, 0.1 + t),
                    "cost_explained_variance.cost": min(0.8, 0.05 + t),
                    "clip_fraction": 0.05 + 0.02 * r.random(),
                    "missing_eos": 0.6 - 0.1 * t,
                    "policy_loss": -0.01,
                    "value_loss": 0.3,
                    "grad_norm": 0.9,
                    "learning_rate": 1e-4,
                }
            )
        return rows
    return []


def _timings(kind, steps):
    phases = (
        {"generate": 9.1 * steps, "score": 2.3 * steps, "update": 11.4 * steps, "other": 0.6 * steps}
        if kind == "ppo"
        else {"update": 3.3 * steps, "other": 0.2 * steps}
    )
    return {
        "steps": steps,
        "seconds": sum(phases.values()),
        "phases": phases,
        "tokens": {"update": 900 * steps},
        "attempts": 1,
        "peakRssBytes": 2 * 2**30,
    }


def evaluate(hostile="", prompts=64, seed=5, models=(("sft", 0.18), ("ppo", 0.62)), members=None):
    """An evaluation as the stage writes it, computed by the project's own table."""
    random_ = np.random.default_rng(seed)
    labels = [["money", "health", "home"][i % 3] for i in range(prompts)]
    questions = [f"What should I do about risk number {i} at {labels[i]}?" for i in range(prompts)]
    named_care, models = models, []
    for name, care in named_care:
        cared = random_.random((prompts, 1)) < care
        texts = [
            ["Ask a professional and be careful." * 1 if cared[i, 0] else f"Just do it number {i}, it will be fine."]
            for i in range(prompts)
        ]
        if hostile:
            texts = [[hostile + entry[0]] for entry in texts]
        cost = np.where(cared, -1.0, 1.0)
        models.append(Judged(
            name=name, texts=texts, lengths=random_.integers(12, 29, (prompts, 1)).astype(float), ended=(random_.random((prompts, 1)) < 0.4).astype(float),
            rewards={"reward": random_.normal(0.4 + care, 0.7, (prompts, 1)), "distinct_words": random_.normal(14 + 2 * care, 2, (prompts, 1)).round()},
            costs={"cost": cost * 0.7 + random_.normal(0, 0.5, (prompts, 1)), "no_care": cost},
            kl=None if name == "sft" else random_.normal(3, 1, (prompts, 1)), kl_k3=None if name == "sft" else random_.normal(3.2, 1.5, (prompts, 1)),
        ))  # fmt: skip
    before = models[0]
    intervals = Intervals(resamples=500, seed=seed)
    weights = {"reward": 1.0, "distinct_words": 1.0}
    measured = [table.measure(model, before, intervals, weights) for model in models]
    verdicts = gates.check([Gate(metric="harmful_rate.no_care", max=0.6)], measured[1:])
    evaluation = {
        "version": "1", "prompts": prompts, "samples_per_prompt": 1, "confidence": 0.95, "resamples": 500, "seed": seed,
        "generation": {"maxNewTokens": 28, "temperature": 1.0},
        "judges": [
            {"name": "reward", "kind": "reward", "source": "stage:reward"}, {"name": "distinct_words", "kind": "reward", "source": "function:gold:distinct_words"},
            {"name": "cost", "kind": "cost", "source": "stage:cost"}, {"name": "no_care", "kind": "cost", "source": "function:gold:no_care"},
        ],
        "baseline": "sft",
        "models": [table.as_json(entry, intervals) for entry in measured],
        "distributions": distributions(table.scores(models), "sft"),
        "categories": table.categories(models, before, labels, intervals),
        "gates": [verdict.as_json() for verdict in verdicts],
        "notes": table.missing_scores(models), "shown": [3, 17, 40],
        **groups.as_json(groups.measure(members or {}, models, measured, intervals, weights), intervals),
    }  # fmt: skip
    samples = [
        {"prompt": i, "sample": 0, "model": model.name, "category": labels[i], "messages": [{"role": "user", "content": hostile + questions[i]}],
         "answer": model.texts[i][0], "tokens": int(model.lengths[i, 0]), "ended": bool(model.ended[i, 0]),
         "scores": {f"cost.{n}": float(v[i, 0]) for n, v in model.costs.items()} | {f"reward.{n}": float(v[i, 0]) for n, v in model.rewards.items()},
         "harmful": bool(model.costs["no_care"][i, 0] > 0)}
        for model in models for i in range(prompts)
    ]  # fmt: skip
    return evaluation, samples


def _lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
