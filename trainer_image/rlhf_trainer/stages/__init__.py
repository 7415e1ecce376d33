"""The registry of stage types: where each one's `run(context)` lives. Imported only when a stage runs.

A further type is one entry here, one file beside this one, and its spec in `rlhf_api.stages`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rlhf_trainer.exits import InputError

Run = Callable[[Any], None]
"""Takes a StageContext; of SINGLE_PROCESS_STAGES, a LightContext."""

STAGES: dict[str, str] = {
    "prepare": "rlhf_trainer.stages.prepare:run",
    "sft": "rlhf_trainer.stages.sft:run",
    "rewardModel": "rlhf_trainer.stages.preference:run",
    "costModel": "rlhf_trainer.stages.preference:run",
    "moderation": "rlhf_trainer.stages.moderation:run",
    "simulate": "rlhf_trainer.stages.simulate:run",
    "rules": "rlhf_trainer.stages.rules:run",
    "ppo": "rlhf_trainer.stages.ppo:run",
    "evaluate": "rlhf_trainer.stages.evaluate:run",
    "report": "rlhf_trainer.stages.report:run",
}


def resolve(stage_type: str) -> Run:
    """The function that computes a stage of this type.

    Raises:
        InputError: the type is unknown to this trainer.
    """
    if stage_type not in STAGES:
        names = ", ".join(sorted(STAGES))
        raise InputError(
            f"stage.json: type: found {stage_type!r}; this trainer knows {names}. Use an image that has the type.",
            reason="UnknownStageType",
        )
    module, _, function = STAGES[stage_type].partition(":")
    run: Run = getattr(importlib.import_module(module), function)
    return run
