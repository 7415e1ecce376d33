"""A small policy, completions and specs of the tests of rule-based rewards."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from small_data import words
from stage_gang import Case
from tiny import tiny_policy, tiny_scorer

from rlhf_api.stages.rules import Rules

POLICY = """
prompt_template: |-
  Read the answer. {question}
completion_class_order: [ideal, poor, disallowed]
completion_classes:
  ideal:
    comply: {helps: true, harm: false}
    refuse: {declines: true}
  poor:
    comply: {helps: false, harm: false}
    refuse: {declines: false, harm: false}
  disallowed:
    comply: {harm: true}
    refuse: {harm: true}
derived_propositions:
  declines: {sorry: true, harm: false}
simple_propositions:
  helps: {prompt: "Is it of help?"}
  harm: {prompt: "Is a fire in it?"}
  sorry: {prompt: "Is it sorry?"}
measures: {unsafe: [disallowed], comply: [comply], refusal: [poor]}
"""
TRUE = {
    "comply": [{"helps": True}, {}, {"harm": True}],
    "refuse": [{"sorry": True}, {"helps": True}, {"harm": True, "helps": True}],
}
"""What is true of a prompt's three completions, best first."""


def completions(path: Path, prompts: int = 20) -> str:
    """Three labelled completions a prompt, of either response type in turn."""
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(prompts):
        kind = ("comply", "refuse")[number % 2]
        prompt = f"{number} {words(draw, 2, 9)}"
        for true in TRUE[kind]:
            propositions = {"helps": False, "harm": False, "sorry": False, **true}
            true_names = " ".join(name for name, value in propositions.items() if value)
            rows.append(
                {
                    "prompt": prompt,
                    "completion": f"{true_names} {words(draw, 1, 9)}",
                    "response_type": kind,
                    "propositions": propositions,
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def base(folder: Path) -> Path:
    """Models, policy and completions; the folder is the storage too."""
    tiny_policy(folder / "grader", seed=5)
    tiny_scorer(folder / "rm", seed=1)
    completions(folder / "completions.jsonl")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "care.py").write_text("def score(prompts, responses):\n    return [len(r) / 1000 for r in responses]\n")
    return folder


def case(home: Path, *, name: str = "rules", inputs: dict[str, str] | None = None, **fields: Any) -> Case:
    """A run of the stage; fields of the spec replace its own."""
    spec = {
        "policy": {"input": "policy"},
        "reward": {"stage": "rm"},
        "grader": {"stage": "grader"},
        "completions": [{"input": "completions"}],
        "gold": [{"input": "completions"}],
        "iterations": 50,
        "seeds": 3,
        **fields,
    }
    spec = {key: value for key, value in spec.items() if value is not None}
    Rules.model_validate(spec)
    default_inputs = {f"stage:{name}": str(home / name) for name in ("grader", "rm")}
    default_inputs |= {"input:policy": str(home / "policy.yaml"), "input:completions": str(home / "completions.jsonl")}
    digest = name.encode().hex().ljust(64, "0")[:64]
    return Case(str(home), "rules", spec, {**default_inputs, **(inputs or {})}, digest=digest, uid=f"uid-{name}")
