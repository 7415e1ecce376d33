"""Dropout and the like turned off, whatever a family calls it: two forwards of one row are then equal, also in training.

PPO needs it: a ratio of probabilities compares forwards, and a reference differs from the policy by its weights alone.
"""

from __future__ import annotations

import re
from typing import Any

NOISE = re.compile(r"drop|jitter")
"""Names of rates: dropout, attention_dropout, attn_pdrop, hidden_dropout_prob, layerdrop, router_jitter_noise, ..."""


def silence(model: Any) -> None:
    """Set every such rate to 0, in place: of its modules, and of its configuration, which some modules read."""
    for module in model.modules():
        _zero(module)
        if hasattr(module, "config"):
            _zero(module.config)
        if NOISE.search(type(module).__name__.lower()) and isinstance(getattr(module, "p", None), float):
            module.p = 0.0


def _zero(holder: Any) -> None:
    for name, value in vars(holder).items():
        if NOISE.search(name) and type(value) is float:
            setattr(holder, name, 0.0)
