"""Which parts an evaluation has, by its spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.data.conversion import Check
from rlhf_trainer.data.load import Inputs, load_dialogues
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation.dialogues import Dialogues
from rlhf_trainer.evaluation.parts import Part


def load_parts(
    context: Inputs,
    spec: Evaluate,
    prompts: Sequence[Prompt],  # noqa: ARG001 - no part of them yet
    checks: Callable[[str], Sequence[Check]] = lambda _: (),
) -> list[Part]:
    """The parts that the spec asks for.

    Args:
        context: Gives the inputs of references.
        spec: Of the stage.
        prompts: The evaluation's own.
        checks: What models say of the rows of a field, by its name.

    Raises:
        InputError: rows or files that a part needs cannot be used; names the field.
    """
    parts: list[Part] = []
    if spec.dialogues:
        dialogues, counts = load_dialogues(context, spec.dialogues, *checks("dialogues"))
        parts.append(Dialogues(dialogues, spec.generation.samples, counts))
    return parts


def metrics_of_parts(parts: Sequence[Part]) -> dict[str, bool]:
    """Names of the parts' metrics, and whether higher is better."""
    return {name: higher for part in parts for name, higher in part.metrics().items()}
