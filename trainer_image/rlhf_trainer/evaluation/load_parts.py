"""Which parts an evaluation has, by its spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.data.conversion import Check
from rlhf_trainer.data.load import Inputs, load_dialogues
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation import attacked, refusals
from rlhf_trainer.evaluation.dialogues import Dialogues
from rlhf_trainer.evaluation.late_harm import metric_names
from rlhf_trainer.evaluation.panel import Panel
from rlhf_trainer.evaluation.parts import Part
from rlhf_trainer.evaluation.probes import load_personas, load_sycophancy


def load_parts(
    context: Inputs,
    spec: Evaluate,
    prompts: Sequence[Prompt],
    seed: int,
    checks: Callable[[str], Sequence[Check]] = lambda _: (),
) -> list[Part]:
    """The parts that the spec asks for.

    Args:
        context: Gives the inputs of references.
        spec: Of the stage.
        prompts: The evaluation's own.
        seed: Of the stage.
        checks: What models say of the rows of a field, by its name.

    Raises:
        InputError: rows or files that a part needs cannot be used; names the field.
    """
    parts: list[Part] = [*refusals.load(context, spec, prompts), *attacked.load(spec, prompts, seed)]
    if spec.dialogues:
        dialogues, counts = load_dialogues(context, spec.dialogues, *checks("dialogues"))
        parts.append(Dialogues(dialogues, spec.generation.samples, counts))
    if spec.judges:
        parts.append(Panel(spec, prompts))
    return [*parts, *load_sycophancy(context, spec), *load_personas(context, spec)]


def metrics_of_parts(parts: Sequence[Part]) -> dict[str, bool]:
    """Names of the parts' metrics, and whether higher is better."""
    return {name: higher for part in parts for name, higher in part.metrics().items()}


def metrics_of_spec(context: Inputs, spec: Evaluate, prompts: Sequence[Prompt] | None) -> dict[str, bool]:
    """Names of the metrics that the parts will have, and whether higher is better, before any model is loaded.

    Args:
        context: Gives the inputs of references.
        spec: Of the stage.
        prompts: The evaluation's own; None: a stage makes them, and they may expect anything.
    """
    comply, refuse = (1, 1) if prompts is None else refusals.counts(prompts)
    names = refusals.metric_names(comply, refuse) if spec.refusal is not None else {}
    names |= attacked.metric_names(
        spec.attacks, comply, refuse, refusal=spec.refusal is not None, costs=bool(spec.costs)
    )
    dialogues = load_dialogues(context, spec.dialogues)[0] if spec.dialogues else []  # no stage makes such rows
    turns = max((dialogue.turns for dialogue in dialogues), default=0)
    return names | (dict.fromkeys(metric_names(turns), False) if turns else {})
