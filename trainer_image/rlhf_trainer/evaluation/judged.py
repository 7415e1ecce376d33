"""What was measured of one model: answers with what judges said of them, and the numbers made of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf_trainer.evaluation.classes import Classes
from rlhf_trainer.evaluation.parts import Measures
from rlhf_trainer.statistics.intervals import Estimate, Floats


@dataclass(frozen=True)
class Judged:
    """One model's answers to all P prompts, S each, and what the judges said. Arrays are [P, S]; NaN: no score."""

    name: str
    texts: Sequence[Sequence[str]]
    lengths: Floats
    """Tokens an answer has, EOS included."""
    ended: Floats
    """1 where the answer ended with EOS, 0 where it was cut."""
    rewards: dict[str, Floats]
    """By judge."""
    costs: dict[str, Floats]
    """By judge; above 0: harmful."""
    refusals: dict[str, Floats] = field(default_factory=dict)
    """By judge; above 0: refused."""
    kl: Floats | None = None
    """Sum over the answer's tokens of log pi - log pi_baseline, nats; None for the baseline or where not measured."""
    kl_k3: Floats | None = None
    """The same with Schulman's k3, e^-k - 1 + k a token."""
    classes: Classes | None = None
    """What rules say of the answers."""
    suites: dict[str, dict[str, Floats]] = field(default_factory=dict)
    """By suite, then by metric, the one that stands for it first: [D] documents."""
    measures: Sequence[Measures] = ()
    """What the parts of the evaluation measured."""


@dataclass(frozen=True)
class Measured:
    """A model's metrics, and for a candidate the differences to the baseline."""

    name: str
    metrics: dict[str, Estimate]
    differences: dict[str, Estimate] = field(default_factory=dict)
