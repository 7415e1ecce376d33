"""The public policy and gold rows where they are on this machine, and a small policy of two response types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"
public = pytest.mark.skipif(not DATA.is_dir(), reason="the public policy and gold rows are not on this machine")


def small() -> dict[str, Any]:
    """A policy of two response types."""
    return {
        "prompt_template": "Look at it. {question}",
        "completion_class_order": ["ideal", "poor", "bad"],
        "completion_classes": {
            "ideal": {"comply": {"helps": True, "harm": False}, "refuse": {"declines": True}},
            "poor": {"comply": {"helps": False, "harm": False}, "refuse": {"declines": False, "harm": False}},
            "bad": {"comply": {"harm": True}, "refuse": {"harm": True}},
        },
        "derived_propositions": {"declines": {"sorry": True, "harm": False}},
        "simple_propositions": {name: {"prompt": f"Is it {name}?"} for name in ("helps", "harm", "sorry")},
    }
