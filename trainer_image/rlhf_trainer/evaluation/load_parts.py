"""Which parts an evaluation has, by its spec."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.data.load import Inputs
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation import attacked, refusals
from rlhf_trainer.evaluation.parts import Part


def load_parts(context: Inputs, spec: Evaluate, prompts: Sequence[Prompt], seed: int) -> list[Part]:
    """The parts that the spec asks for.

    Args:
        context: Gives the inputs of references.
        spec: Of the stage.
        prompts: The evaluation's own.
        seed: Of the stage.

    Raises:
        InputError: rows or files that a part needs cannot be used; names the field.
    """
    return [*refusals.load(context, spec, prompts), *attacked.load(spec, prompts, seed)]


def metrics_of_parts(parts: Sequence[Part]) -> dict[str, bool]:
    """Names of the parts' metrics, and whether higher is better."""
    return {name: higher for part in parts for name, higher in part.metrics().items()}


def metrics_of_spec(spec: Evaluate, prompts: Sequence[Prompt] | None) -> dict[str, bool]:
    """Names of the metrics that the parts will have, and whether higher is better, before anything is loaded.

    Args:
        spec: Of the stage.
        prompts: The evaluation's own; None: a stage makes them, and they may expect anything.
    """
    comply, refuse = (1, 1) if prompts is None else refusals.counts(prompts)
    names = refusals.metric_names(comply, refuse) if spec.refusal is not None else {}
    return names | attacked.metric_names(
        spec.attacks, comply, refuse, refusal=spec.refusal is not None, costs=bool(spec.costs)
    )
