"""What simulate stages made, as the report shows it: counts, filters, the judge's worth, the audit sample; and what
scorers make of pairs that they were never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_trainer.reporting.collect import StageFolder
from rlhf_trainer.reporting.files import Json

LONGEST = 1500
"""Characters of one text of the audit sample that are shown."""
METHODS = {
    "rlcd": "pairs by contrast (RLCD)",
    "rlaif": "pairs judged by a model (RLAIF)",
    "rlcdRescore": "pairs by contrast, judged by a model (RLCD-Rescore)",
    "contextDistillation": "conversations by context distillation",
    "completions": "completions for rule-based rewards",
    "redTeam": "prompts by red-teaming",
}


def simulations(stages: Sequence[StageFolder], audits: Mapping[str, Sequence[Json]]) -> list[Json]:
    """One entry a simulate stage that has a product, with what people said of its audit sample."""
    return [
        {**_simulation(stage, stage.simulation), "people": list(audits.get(stage.planned.name, ()))}
        for stage in stages
        if stage.simulation is not None
    ]


def _simulation(stage: StageFolder, content: Json) -> Json:
    spent = (stage.timings or {}).get("phases", {}).get("generate")
    tokens = (stage.timings or {}).get("tokens", {}).get("generate")
    return {
        "stage": stage.planned.name,
        "method": METHODS.get(content["method"], content["method"]),
        "prompts": content["prompts"],
        "chat": content["chat"],
        "model": content["provenance"]["model"]["source"],
        "judge": content["provenance"].get("judge", {}).get("source"),
        "target": content["provenance"].get("target", {}).get("source"),
        "counts": content["counts"],
        "dropped": content["dropped"],
        "judging": content.get("judging"),
        "lengths": content.get("lengths"),
        "attacks": content.get("attacks"),
        "asks": content.get("asks", []),
        "tokensPerSecond": tokens / spent if spent and tokens else None,
        "audit": [_shown(row) for row in stage.audit],
    }


def _shown(row: Json) -> Json:
    """A row of the audit sample: what was said before, and what was made of it."""
    texts: list[tuple[str, str]] = [
        (name, row[name][0]["content"]) for name in ("chosen", "rejected", "completion") if name in row
    ]
    provenance = row.get("provenance", {})
    if not texts and "answer" in provenance:
        texts = [("the target's answer", provenance["answer"])]
    grade = provenance.get("grade") or provenance.get("phrase")
    return {
        "number": row["number"],
        "messages": [{**message, "content": _cut(message["content"])} for message in row["prompt"]],
        "made": [
            {"name": name, "text": _cut(text), "asked": provenance.get(name) if name != "completion" else grade}
            for name, text in texts
        ],
        "weight": row.get("weight"),
        "instruction": provenance.get("instruction"),
        "costs": provenance.get("costs"),
    }


def tests(stages: Sequence[StageFolder]) -> list[Json]:
    """One entry a reward or cost model that was measured on pairs of `test`."""
    entries = []
    methods = {stage.planned.name: stage.simulation["method"] for stage in stages if stage.simulation is not None}
    for stage in stages:
        metrics: dict[str, Any] = stage.manifest.metrics if stage.manifest is not None else {}
        tested = metrics.get("test")
        if not isinstance(tested, dict) or "accuracy" not in tested:
            continue
        learned = [str(ref.get("stage") or ref.get("input")) for ref in stage.planned.spec["data"]]
        entries.append(
            {
                "stage": stage.planned.name,
                "learned": [{"name": name, "method": METHODS.get(methods.get(name, ""))} for name in learned],
                "judged": [str(ref.get("stage") or ref.get("input")) for ref in stage.planned.spec["test"]],
                "heldout": metrics.get("accuracy"),
                "test": tested["accuracy"],
                "shorter": tested.get("accuracy_shorter_wins"),
                "word": _word(tested["accuracy"]),
            }
        )
    return entries


def _word(accuracy: Json) -> str:
    """Against a coin."""
    if accuracy["low"] is None or accuracy["low"] <= 0.5 <= accuracy["high"]:
        return "shows nothing"
    return "better than a coin" if accuracy["low"] > 0.5 else "worse than a coin"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST} more characters)"
