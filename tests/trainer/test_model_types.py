"""What the API knows of transformers' model types is what transformers says."""

from __future__ import annotations

from pathlib import Path

from rlhf_api.capability import model_types
from rlhf_trainer.model_types import source


def test_the_generated_lists_are_those_of_this_transformers() -> None:
    assert Path(model_types.__file__).read_text() == source(), "run: python -m rlhf_trainer.model_types"
