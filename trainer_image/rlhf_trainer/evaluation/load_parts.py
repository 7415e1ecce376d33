"""Which parts an evaluation has, by its spec."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.data.load import Inputs
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation.panel import Panel
from rlhf_trainer.evaluation.parts import Part


def load_parts(context: Inputs, spec: Evaluate, prompts: Sequence[Prompt]) -> list[Part]:  # noqa: ARG001 - none needs it yet
    """The parts that the spec asks for.

    Args:
        context: Gives the inputs of references.
        spec: Of the stage.
        prompts: The evaluation's own.

    Raises:
        InputError: rows or files that a part needs cannot be used; names the field.
    """
    parts: list[Part] = []
    if spec.judges:
        parts.append(Panel(spec, prompts))
    return parts


def metrics_of_parts(parts: Sequence[Part]) -> dict[str, bool]:
    """Names of the parts' metrics, and whether higher is better."""
    return {name: higher for part in parts for name, higher in part.metrics().items()}
