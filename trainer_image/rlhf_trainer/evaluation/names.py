"""What the models of an evaluation go by."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_api.fields import ModelRef


def model_names(references: Sequence[ModelRef]) -> list[str]:
    """What models go by: the stage's or input's name; `input-NAME` where an input is called as a stage is."""
    plain = [str(reference.input or reference.stage) for reference in references]
    return [
        f"{reference.key.replace(':', '-')}" if plain.count(name) > 1 else name
        for name, reference in zip(plain, references, strict=True)
    ]
