"""The report as data (`report.json`): what the page shows, and nothing that it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rlhf_api.fields import RulesRef
from rlhf_api.stages import PREPARE, REPORT, STAGE_TYPES
from rlhf_api.stages.ppo import Ppo
from rlhf_api.stages.report import Report
from rlhf_api.stages.simulate import Simulate
from rlhf_trainer.reporting import judges, verdict
from rlhf_trainer.reporting.collect import Collected, StageFolder
from rlhf_trainer.reporting.disclosure import disclosure, limits
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.fits import fits
from rlhf_trainer.reporting.simulated import simulations, tests
from rlhf_trainer.reporting.texts import row_texts

VERSION = "1"
PLACES = 6
"""Significant digits of a curve's values."""
LONGEST = 4000
"""Characters of one text of a sample that are shown."""
TEXT = 500_000
"""Characters of all samples together: the report stays below 1.5 MB."""


def content(collected: Collected) -> Json:
    """Everything the report says. See docs/report.md for what each number means."""
    stages = [_stage(stage) for stage in collected.stages]
    evaluations = [_evaluation(stage, collected) for stage in collected.stages if stage.evaluation is not None]
    settings = _settings(collected)
    return {
        "version": VERSION,
        "title": settings.title or collected.job.metadata.name,
        "job": collected.job.metadata.name,
        "uid": collected.uid,
        "seed": collected.job.spec.seed,
        "complete": all(stage.state == "done" for stage in collected.stages),
        "verdict": _verdict(stages, evaluations),
        "stages": stages,
        "inputs": _inputs(collected),
        "evaluations": evaluations,
        "simulations": simulations(collected.stages, collected.audits),
        "tests": tests(collected.stages),
        "fits": fits(collected.stages),
        "versions": _versions(collected.stages),
        "disclosure": disclosure(collected, settings, evaluations),
        "limits": limits(collected, evaluations),
        "problems": collected.problems,
    }


def _settings(collected: Collected) -> Report:
    written = next((stage.report for stage in collected.job.spec.stages if stage.type == REPORT), None)
    return written or Report()


def _verdict(stages: Sequence[Json], evaluations: Sequence[Json]) -> list[dict[str, str]]:
    sentences = verdict.failures(stages)
    failed = {stage["name"] for stage in stages if stage["state"] == "failed"}
    for evaluation in evaluations:
        if evaluation["stage"] not in failed:  # a stage that failed at its gates has said so
            missed = [gate["text"] for gate in evaluation["gates"] if not gate["passed"]]
            sentences += [{"text": f"A gate was not kept: {text}.", "tone": "bad"} for text in missed]
        sentences += verdict.sentences(evaluation)
    sentences += verdict.constraints(stages)
    if not evaluations:
        sentences += verdict.scorers(stages)
        sentences.append(
            {
                "text": "No evaluation is in this job's results: this report cannot say what training changed.",
                "tone": "",
            }
        )
    return sentences


def _stage(stage: StageFolder) -> Json:
    planned, manifest, outcome = stage.planned, stage.manifest, stage.outcome
    failure = None
    if outcome is not None:
        failure = {
            "state": outcome.state,
            "exitCode": outcome.exit_code,
            "reason": outcome.reason,
            "message": outcome.message,
        }
    return {
        "name": planned.name,
        "type": planned.type,
        "state": stage.state,
        "failure": failure,
        "reused": stage.reused,
        "needs": [name for name in planned.needs if name != PREPARE],
        "inputs": [key.partition(":")[2] for key in planned.takes if key.startswith("input:")],
        "digest": manifest.digest if manifest else None,
        "product": f"products/{stage.product.name}" if stage.product else None,
        "seed": planned.seed,
        "ranks": manifest.world if manifest else None,
        "image": manifest.image if manifest else None,
        "recipe": manifest.recipe if manifest else None,
        "spec": _flat(planned.spec),
        "counts": dict(manifest.counts) if manifest else {},
        "metrics": dict(manifest.metrics) if manifest and STAGE_TYPES[planned.type].product != "evaluation" else {},
        "notes": list(manifest.notes) if manifest else [],
        "model": stage.model,
        "timings": stage.timings,
        "limits": _drawn_limits(planned.type, planned.spec),
        "curves": [_rounded(row) for row in _thinned(stage.rows) if len(row) > 1],
    }


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """A spec as dotted names and plain values; what is not set is left out."""
    if isinstance(value, Mapping):
        entries = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        entries = [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {} if value is None else {path: value}
    return {name: leaf for key, inner in entries for name, leaf in _flat(inner, key).items()}


def _drawn_limits(kind: str, spec: Json) -> Json:
    """Lines for the curves: the limit of each cost, the target of an adaptive KL."""
    if kind != "ppo":
        return {}
    ppo = _ppo(spec)
    lines: Json = {"cost": {f"cost.{cost.label}": cost.limit for cost in ppo.costs}}
    if ppo.kl.target is not None:
        lines["kl"] = {"kl": ppo.kl.target}
    return lines


def _ppo(spec: Json) -> Ppo:
    return Ppo.model_validate_json(orjson.dumps(spec))


def _thinned(rows: Sequence[Json], most: int = 400) -> list[Json]:
    """At most about `most` rows, evenly spaced, first and last kept."""
    if len(rows) <= most:
        return list(rows)
    step = (len(rows) - 1) / (most - 1)
    return [rows[round(index * step)] for index in range(most)]


def _rounded(row: Json) -> Json:
    return {name: float(f"{value:.{PLACES}g}") if isinstance(value, float) else value for name, value in row.items()}


def _evaluation(stage: StageFolder, collected: Collected) -> Json:
    evaluation = dict(stage.evaluation or {})
    pushed = _optimised(stage, collected)
    evaluation["stage"] = stage.planned.name
    evaluation.setdefault("snapshots", {})  # evaluations of before have none
    evaluation["judges"] = [{**judge, "optimised": judge["source"] in pushed} for judge in evaluation["judges"]]
    if "further_judges" in evaluation:
        evaluation["further_judges"] = judges.trained_on(evaluation["further_judges"], pushed)
    rules = stage.planned.spec.get("rules")
    key = RulesRef.model_validate(rules).key if rules is not None else None
    evaluation["rules"] = {"source": key, "optimised": key in pushed} if key is not None else None
    evaluation["samples"] = _by_prompt(stage.samples, verdict.primary(evaluation, "cost"))
    return evaluation


def _optimised(evaluation: StageFolder, collected: Collected) -> set[str]:
    """Keys of rewards, costs, rules and judges of simulated pairs that the training of this evaluation's models pushed on,
    through all rounds."""
    by_name = {stage.planned.name: stage.planned for stage in collected.stages}
    waiting, visited, pushed = list(evaluation.planned.needs), set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        if name in visited or name not in by_name:
            continue
        visited.add(name)
        planned = by_name[name]
        waiting += planned.needs
        if planned.type == "simulate":
            pushed |= _labelled(planned.spec)
        if planned.type == "ppo":
            ppo = _ppo(planned.spec)
            pushed |= {scorer.key for scorer in (*ppo.rewards, *ppo.costs)}
            if ppo.rule_based is not None:
                pushed.add(ppo.rule_based.key)
    return pushed


def _labelled(spec: Json) -> set[str]:
    """The model whose choices became preferences, by its key."""
    simulate = Simulate.model_validate_json(orjson.dumps(spec))
    method = simulate.rlaif or simulate.rlcd_rescore
    return {(method.judge or simulate.model).key} if method is not None else set()


def _by_prompt(samples: Sequence[Json], cost: Mapping[str, Any] | None) -> list[Json]:
    """Sample answers grouped by prompt: `{prompt, category, messages, answers: [{model, answer, scores, harmful, ...}]}`.

    An answer is called harmful by the cost that the headline uses. Texts beyond their share of TEXT are cut.
    """
    grouped: dict[int, Json] = {}
    most = min(LONGEST, TEXT // max(1, 2 * len(samples)))
    for row in samples:
        messages = [{**message, "content": _cut(message["content"], most)} for message in row["messages"]]
        entry = grouped.setdefault(
            row["prompt"],
            {"prompt": row["prompt"], "category": row.get("category"), "messages": messages, "answers": []},
        )
        shown = {name: row.get(name) for name in ("model", "tokens", "ended", "scores")}
        score = None if cost is None else row["scores"].get(f"cost.{cost['name']}")
        harmful = None if score is None else score > 0
        entry["answers"].append({**shown, "answer": _cut(row["answer"], most), "harmful": harmful})
    return list(grouped.values())


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"


def _inputs(collected: Collected) -> list[Json]:
    used: dict[str, list[str]] = {}
    for stage in collected.stages:
        for key in stage.planned.takes:
            kind, _, name = key.partition(":")
            if kind == "input":
                used.setdefault(name, []).append(stage.planned.name)
    entries = []
    for entry in collected.job.spec.inputs:
        provenance = collected.provenance.get(entry.name, {})
        entries.append(
            {
                "name": entry.name,
                "source": entry.source,
                "kind": provenance.get("kind"),
                "commit": provenance.get("commit"),
                "digest": collected.digests.get(entry.name),
                "licence": entry.licence or provenance.get("licence"),
                "bytes": provenance.get("bytes"),
                "architecture": provenance.get("architecture"),
                "parameters": provenance.get("parameters"),
                "counts": provenance.get("counts") or {},
                "examples": provenance.get("examples") or [],
                "usedBy": used.get(entry.name, []),
                **row_texts(provenance),
            }
        )
    return entries


def _versions(stages: Sequence[StageFolder]) -> dict[str, list[str]]:
    """Every version of every library that computed a product: more than one where products were reused."""
    versions: dict[str, list[str]] = {}
    for stage in stages:
        for name, version in (stage.manifest.versions if stage.manifest else {}).items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    return dict(sorted(versions.items()))
