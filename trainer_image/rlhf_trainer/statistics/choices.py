"""What a judge's log-odds in both orders say. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Choice(NamedTuple):
    """A judge's reading of one question."""

    log_odds: float
    """log P(A) - log P(B), nats."""
    mass: float
    """P(A) + P(B): what is left went to other tokens."""


def soft_label(first: float, second: float) -> float:
    """Probability that the first answer is the better one: sigmoid of the mean log-odds of both orders.

    Args:
        first: log P(A) - log P(B) with the first answer as A.
        second: log P(A) - log P(B) with the first answer as B.

    (1.2 and -0.4: mean 0.8, p 0.6899745.)
    """
    mean = (first - second) / 2
    return 1 / (1 + math.exp(-mean)) if mean >= 0 else math.exp(mean) / (1 + math.exp(mean))


def agree(first: float, second: float) -> float:
    """1 where both orders choose the same answer (the log-odds of A change their sign), 0 where not; a tie is a half."""
    return 0.5 if first == 0 or second == 0 else float((first > 0) != (second > 0))


def centred(odds: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Log-odds of A in both orders, less the judge's mean lean to A over all pairs."""
    lean = sum(first + second for first, second in odds) / (2 * len(odds)) if odds else 0.0
    return [(first - lean, second - lean) for first, second in odds]
