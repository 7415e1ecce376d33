"""How sure a model is of what it chooses, and how right: calibration of the policy itself on multiple-choice tasks.

Training on preferences can leave accuracy as it was and make a model surer than it is right (Open Problems of RLHF,
arXiv 2307.15217, 3.3). lm-eval's log-likelihoods of a document's options are read again; no model is asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_api.stages.evaluate import SUITE
from rlhf_trainer.evaluation.parts import Answers, Measures, PromptSet
from rlhf_trainer.evaluation.shards import Rows
from rlhf_trainer.evaluation.tasks import LoadedTask
from rlhf_trainer.statistics.calibration import BINS, calibration_error
from rlhf_trainer.statistics.intervals import Floats, Intervals
from rlhf_trainer.statistics.own_confidence import calibration, expected_by_chance


def own_choices(suites: Sequence[LoadedTask]) -> list[OwnChoices]:
    """The part, where a suite measures calibration."""
    calibrated = [loaded for loaded in suites if loaded.suite.calibration]
    return [OwnChoices(calibrated)] if calibrated else []


def own_choice(log_likelihoods: Sequence[float], accuracy: float) -> dict[str, float]:
    """A document's `{confidence, right}`.

    Args:
        log_likelihoods: Of the options, summed over their tokens, nats; the largest is the model's choice, which is what
            lm-eval's `acc` judges.
        accuracy: The document's `acc`.

    Returns:
        The choice's share of the options' probability, and 1 where the choice is right.
    """
    scores = np.asarray(log_likelihoods, dtype=np.float64)
    return {"confidence": float(1 / np.exp(scores - scores.max()).sum()), "right": float(accuracy)}


@dataclass(frozen=True)
class OwnChoices:
    """`rlhf_trainer.evaluation.parts.Part` over the suites that measure calibration."""

    suites: Sequence[LoadedTask]
    key: str = "calibration"
    sets: Sequence[PromptSet] = ()

    def metrics(self) -> Mapping[str, bool]:
        """`suite.NAME.confidence` and `suite.NAME.ece`, which the suites name."""
        return {}

    def measures(self, model: str, answers: Answers) -> Measures:
        """Mean confidence, and the expected calibration error."""
        columns = {f"{SUITE}{loaded.suite.name}": _columns(loaded, model, answers) for loaded in self.suites}
        return Measures(
            rates={f"{name}.confidence": confidence for name, (confidence, _) in columns.items()},
            calibrations={f"{name}.ece": both for name, both in columns.items()},
        )

    def as_json(self, answers: Answers, intervals: Intervals) -> Rows:
        """Each suite's `{suite, documents, bins, models: {MODEL: {confidence, right, ece, by_chance, bins}}}`."""
        return [
            {
                "suite": loaded.suite.name,
                "documents": loaded.documents,
                "bins": BINS,
                "models": {name: _of_model(*_columns(loaded, name, answers), intervals) for name in answers.names},
            }
            for loaded in self.suites
        ]


def _of_model(confidence: Floats, right: Floats, intervals: Intervals) -> dict[str, Any]:
    return {
        "confidence": intervals.rate(confidence).as_json(),
        "right": intervals.rate(right).as_json(),
        "ece": calibration(confidence, right, intervals).as_json(),
        "by_chance": expected_by_chance(confidence, intervals),
        "bins": calibration_error(confidence, right, 0.0, 1.0)[1],
    }


def _columns(loaded: LoadedTask, model: str, answers: Answers) -> tuple[Floats, Floats]:
    """[D] confidence, and [D] whether right."""
    rows = answers.asked(f"suites/{loaded.suite.name}", model, loaded.documents)
    confidence, right = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("confidence", "right"))
    return confidence, right
