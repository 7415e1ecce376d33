"""Which models' chat templates write the rows of a stage's field. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rlhf_api.fields import Reference
from rlhf_api.stages import CostModel, Evaluate, Moderation, Ppo, RewardModel, Rules, Sft, Simulate
from rlhf_trainer.data.checks import Reading


@dataclass(frozen=True)
class Reader:
    """A model that rows are written for."""

    reference: Reference
    reading: Reading = "row"


def readers(spec: Any, field: str) -> Iterator[Reader]:
    """The readers of a field (`prompts`, `ptx.data`) of a stage's spec.

    Judges of PPO are none: they take ids. `plain` simulations and red-teaming write no template.
    """
    match spec:
        case Sft() | RewardModel() | CostModel() | Moderation():
            yield Reader(spec.model)
        case Ppo():
            yield Reader(spec.policy)
        case Evaluate():
            yield from (Reader(model) for model in (spec.baseline, *spec.candidates))
            judges = (*spec.rewards, *spec.costs, *([spec.refusal] if spec.refusal is not None else []))
            yield from (Reader(judge, "judge") for judge in judges if judge.function is None)
            guards = (judge.model for judge in spec.judges if judge.asks == "guard")
            yield from (Reader(model, "guard") for model in guards if model is not None)
        case Simulate() if spec.chat != "plain" and spec.red_team is None:
            yield Reader(spec.model)
        case Rules() if spec.reward.function is None and field == "completions":
            yield Reader(spec.reward, "prompt")
    grader = _grader(spec, field)
    if grader is not None:
        yield Reader(grader, "grader")


def _grader(spec: Any, field: str) -> Reference | None:
    """What grades completions, or answers to prompts: by default the grader of the stage that made the rules."""
    if isinstance(spec, Rules):
        return spec.grader if spec.features == "grader" or field == "gold" else None
    if isinstance(spec, Ppo | Evaluate) and spec.rule_based is not None and field == "prompts":
        return spec.rule_based.grader or spec.rule_based
    return None


def root(reference: Reference, stages: dict[str, Any]) -> str | None:
    """The input whose tokenizer a model has, through the stages that trained it; None for functions."""
    while reference.input is None:
        spec = stages.get(reference.stage or "")
        before = (
            spec.grader if isinstance(spec, Rules) else getattr(spec, "model", None) or getattr(spec, "policy", None)
        )
        if before is None:
            return None
        reference = before
    return reference.input
